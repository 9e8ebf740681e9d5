// The language and the direction of a prompt, told from its script.

const SCRIPTS = [
  ["ja", /[\p{Script=Hiragana}\p{Script=Katakana}]/u],
  ["ko", /\p{Script=Hangul}/u],
  ["zh", /\p{Script=Han}/u],
  ["fa", /[پچژگ]/u],
  ["ar", /\p{Script=Arabic}/u],
  ["he", /\p{Script=Hebrew}/u],
  ["hi", /\p{Script=Devanagari}/u],
  ["bn", /\p{Script=Bengali}/u],
  ["th", /\p{Script=Thai}/u],
  ["el", /\p{Script=Greek}/u],
  ["ru", /\p{Script=Cyrillic}/u],
  ["es", /[ñ¿¡áíóú]/iu],
];
const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];

/** Languages that a user may choose, each in its own name. */
export const LANGUAGES = {
  zh: "中文",
  ja: "日本語",
  ko: "한국어",
  ar: "العربية",
  fa: "فارسی",
  he: "עברית",
  ur: "اردو",
  hi: "हिन्दी",
  bn: "বাংলা",
  th: "ไทย",
  ru: "Русский",
  el: "Ελληνικά",
  es: "Español",
  fr: "Français",
  de: "Deutsch",
  pt: "Português",
  vi: "Tiếng Việt",
  en: "English",
};

/** The language whose script a text has, or null where none can be told. */
export function languageOf(text) {
  return SCRIPTS.find(([, letters]) => letters.test(text))?.[0] ?? null;
}

// Languages that Latin letters alone are not written in.
const NOT_LATIN = ["zh", "ja", "ko", "ar", "fa", "he", "ur", "hi", "bn", "th", "ru", "el"];
const KIN = { zh: ["ja"], ja: ["zh"], ar: ["fa", "ur"], fa: ["ar", "ur"], ur: ["ar", "fa"] };

/** Whether a text is surely written in another language than `language`, told from its script. */
export function isOtherLanguage(text, language) {
  const told = languageOf(text);
  if (told === null || told === "es") return NOT_LATIN.includes(language) && /\p{Script=Latin}{3}/u.test(text);
  return told !== language && !KIN[language]?.includes(told);
}

/** "rtl" or "ltr". */
export function directionOf(language) {
  return RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";
}

/** The `lang` and `dir` of a text: of the chosen language, or of the one that it is written in. */
export function textAttributes(text, chosen = "auto", otherwise = "") {
  const language = (chosen === "auto" ? languageOf(text) : chosen) ?? otherwise;
  return { lang: language, dir: directionOf(language) };
}
