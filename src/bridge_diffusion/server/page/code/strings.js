// The page's own language. The texts are in strings/*.json.

import { remembered, signal } from "./view.js";

export const PAGE_LANGUAGES = { en: "English", zh: "中文" };

const preferred = navigator.languages.some((name) => name.startsWith("zh")) ? "zh" : "en";
export const pageLanguage = remembered("bdm.language", preferred, (value) =>
  value in PAGE_LANGUAGES ? value : preferred,
);
const texts = signal({});

/** The text of a key in the page's language; `{name}` in it is replaced. */
export function t(key, values = {}) {
  const text = texts.value[pageLanguage.value]?.[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
}

/** Whether there is a text of that key. */
export const hasText = (key) => key in (texts.value[pageLanguage.value] ?? {});

/** Change the page's language. */
export function setPageLanguage(name) {
  pageLanguage.value = name;
  document.documentElement.lang = name === "zh" ? "zh-Hans" : "en";
}

/** Fetch the texts; nothing is shown before. */
export async function loadStrings() {
  const names = Object.keys(PAGE_LANGUAGES);
  const files = names.map(async (name) => [name, await (await fetch(`strings/${name}.json`)).json()]);
  texts.value = Object.fromEntries(await Promise.all(files));
  setPageLanguage(pageLanguage.value);
}

/** A number as the page's language writes it. */
export function number(value, digits = 2) {
  return new Intl.NumberFormat(pageLanguage.value, { maximumFractionDigits: digits }).format(value);
}

/** A moment, in seconds since 1970, as the page's language writes it. */
export function moment(seconds) {
  const options = { dateStyle: "medium", timeStyle: "short" };
  const own = navigator.languages.find((name) => name.startsWith(pageLanguage.value));
  return new Intl.DateTimeFormat(own ?? pageLanguage.value, options).format(seconds * 1000);
}
