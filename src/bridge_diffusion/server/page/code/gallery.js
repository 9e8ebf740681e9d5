// All finished pictures: searched in any language, favourites, endless.

import { findPictures } from "./api.js";
import { Empty, Icon, Toggle } from "./controls.js";
import { pictureChanges } from "./jobs.js";
import { Thumbnail } from "./pictures.js";
import { errorText } from "./refusals.js";
import { t } from "./strings.js";
import { html, signal, useEffect, useRef, useState, useValue } from "./view.js";

const PAGE = 60;
const TYPING = 250; // milliseconds without a key before a search begins

const search = signal("");
const favouritesOnly = signal(false);

/** Pictures that match, and how to get more of them. */
function usePictures(words, onlyFavourites) {
  const changes = useValue(pictureChanges);
  const [found, setFound] = useState({ pictures: null, hasMore: false, error: "" });
  const run = useRef(0);
  const ask = async (before, limit, kept) => {
    const current = (run.current += 1);
    const favourite = onlyFavourites || null;
    try {
      const pictures = await findPictures({ search: words, favourite, before, limit });
      if (current !== run.current) return;
      setFound({ pictures: [...kept, ...pictures], hasMore: pictures.length === limit, error: "" });
    } catch (error) {
      if (current === run.current) setFound((old) => ({ ...old, error: errorText(error) }));
    }
  };
  useEffect(() => {
    const count = Math.min(200, Math.max(PAGE, found.pictures?.length ?? 0));
    const timer = setTimeout(() => ask(null, count, []), found.pictures === null ? 0 : TYPING);
    return () => clearTimeout(timer);
  }, [words, onlyFavourites, changes]);
  const more = () => ask(found.pictures.at(-1).next, PAGE, found.pictures);
  return { ...found, more };
}

/** A button that is pressed by itself when it comes into sight. */
function More({ onMore }) {
  const button = useRef(null);
  useEffect(() => {
    const watcher = new IntersectionObserver(([entry]) => entry.isIntersecting && onMore());
    watcher.observe(button.current);
    return () => watcher.disconnect();
  });
  return html`<button type="button" class="plain" ref=${button} onClick=${onMore}>${t("more")}</button>`;
}

function Nothing({ words, onlyFavourites }) {
  if (words) return html`<${Empty} title=${t("gallery.noMatch")} text=${t("gallery.noMatch.text")} />`;
  if (onlyFavourites) {
    return html`<${Empty} title=${t("gallery.noFavourite")} text=${t("gallery.noFavourite.text")} />`;
  }
  return html`<${Empty} title=${t("gallery.empty")} text=${t("gallery.empty.text")}>
    <a class="primary" href="#draw">${t("gallery.draw")}</a>
  <//>`;
}

/** The gallery. */
export function Gallery() {
  const words = useValue(search);
  const onlyFavourites = useValue(favouritesOnly);
  const { pictures, hasMore, error, more } = usePictures(words, onlyFavourites);
  return html`<main class="gallery" id="main">
    <h1>${t("gallery")}</h1>
    <div class="gallery-head">
      <label class="search">
        <${Icon} name="search" />
        <span class="visually-hidden">${t("search")}</span>
        <input
          id="search"
          type="search"
          dir="auto"
          value=${words}
          placeholder=${t("search.placeholder")}
          maxlength="200"
          onInput=${(event) => (search.value = event.target.value)}
        />
      </label>
      <${Toggle}
        label=${t("gallery.favourites")}
        value=${onlyFavourites}
        onChange=${(wanted) => (favouritesOnly.value = wanted)}
      />
    </div>
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    ${pictures?.length === 0 && html`<${Nothing} words=${words} onlyFavourites=${onlyFavourites} />`}
    <ul class="gallery-pictures">
      ${pictures?.map(
        (picture) =>
          html`<li key=${picture.id}>
            <${Thumbnail} picture=${picture} among=${pictures} />
            <p class="tile-note" dir="auto">${picture.order.prompt}</p>
          </li>`,
      )}
    </ul>
    ${hasMore && html`<${More} key=${pictures.length} onMore=${more} />`}
  </main>`;
}
