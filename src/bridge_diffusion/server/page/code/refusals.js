// What the server refuses, in the page's language.

import { hasText, t } from "./strings.js";

// The texts that name an order's fields, where they are not called as the field is.
const LABELS = {
  prompt: "prompt.native",
  english: "prompt.english",
  negative: "negative.native",
  negative_english: "negative.english",
};

const nameOf = (field) => t(LABELS[field] ?? field);

/**
 * A refusal as a text: `code` and `values` as the server gives them, `detail` its line in English,
 * which is shown where the page has no words of its own.
 */
export function refusalText({ detail, code, values }) {
  if (!code || !hasText(`refusal.${code}`)) return detail;
  return t(`refusal.${code}`, { ...values, detail, field: nameOf(values.field ?? "") });
}

/** What went wrong in a request to the server, as a text. */
export function errorText(error) {
  if (error.status === 0) return t("error.unreachable");
  if (error.refusal === undefined) return error.message;
  return refusalText(error.refusal);
}

/** Why a job failed, as a text. */
export const failureText = (job) =>
  refusalText({ detail: job.error, code: job.error_code, values: job.error_values });
