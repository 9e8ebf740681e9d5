// Which part of the page is on show: the address's fragment says it, so that "back" works.

import { signal } from "./view.js";

export const PLACES = ["draw", "gallery", "queue"];

const read = () => {
  const name = location.hash.slice(1);
  return PLACES.includes(name) ? name : "draw";
};

export const place = signal(read());
addEventListener("hashchange", () => {
  place.value = read();
  scrollTo(0, 0);
});

/** Go to a part of the page. */
export function goTo(name) {
  if (place.value !== name) location.hash = name;
}
