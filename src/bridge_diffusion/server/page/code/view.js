// What every view is made of: Preact's parts, and values that are shared and remembered.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact-standalone.js";
import { signal } from "../vendor/signals-core.js";

export { html, useEffect, useRef, useState, signal };

/** The value of a signal; the component that asks is drawn again when it changes. */
export function useValue(source) {
  const [value, setValue] = useState(source.value);
  useEffect(() => source.subscribe((next) => setValue(() => next)), [source]);
  return value;
}

/** A signal that a reload keeps. `clean` makes a valid value of what an older page left. */
export function remembered(key, initial, clean = (value) => value) {
  let first = initial;
  try {
    const kept = localStorage.getItem(key);
    if (kept !== null) first = clean(JSON.parse(kept));
  } catch {
    // Storage is forbidden, or what it holds is damaged: begin anew.
  }
  const kept = signal(first);
  kept.subscribe((value) => {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // Storage is forbidden or full: the page works on without a memory.
    }
  });
  return kept;
}
