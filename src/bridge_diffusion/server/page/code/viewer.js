// One picture with all that is known of it, and what may be done with it.

import { deletePicture } from "./api.js";
import { choices, modelNamed } from "./choices.js";
import { Icon, IconButton } from "./controls.js";
import { Dialog } from "./dialog.js";
import { textAttributes } from "./languages.js";
import { tell } from "./notices.js";
import { look, replacePicture, titleOf, toggleFavourite, viewed } from "./pictures.js";
import { goTo } from "./places.js";
import { errorText } from "./refusals.js";
import { recallPicture, startFrom } from "./restoring.js";
import { NO_BRIDGE, setForm } from "./settings.js";
import { moment, t } from "./strings.js";
import { html, useEffect, useState, useValue } from "./view.js";

const TEXTS = ["prompt", "english", "negative", "negative_english"];
const NUMBERS = ["steps", "guidance"];
const OF_THE_BRIDGE = ["scale", "start", "end"];
const LISTS = ["lora", "embedding", "control_net", "ip_adapter", "vae"];

function Facts({ picture }) {
  const { order } = picture;
  const sampler = choices.value.schedulers.find((each) => each.name === order.scheduler);
  const facts = [
    [t("seed"), picture.seed],
    [t("size"), `${picture.width} × ${picture.height}`],
    [t("model"), modelNamed(order.model)?.name ?? order.model],
    [t("bridge"), order.bridge === NO_BRIDGE ? t("none") : order.bridge],
    ...(order.bridge === NO_BRIDGE ? [] : OF_THE_BRIDGE).map((name) => [t(name), order[name]]),
    ...NUMBERS.map((name) => [t(name), order[name]]),
    [t("scheduler"), sampler?.title ?? order.scheduler],
    ...LISTS.filter((name) => order[name]?.length).map((name) => [t(name), String(order[name])]),
    ...(order.init_image ? [[t("strength"), order.strength]] : []),
    [t("created"), moment(picture.created)],
  ];
  return html`<div class="viewer-texts">
      ${TEXTS.filter((name) => order[name]).map(
        (name) =>
          html`<div key=${name}>
            <h3>${t(`view.${name}`)}</h3>
            <p ...${textAttributes(order[name], "auto", "en")}>${order[name]}</p>
          </div>`,
      )}
    </div>
    <dl class="facts">
      ${facts.map(
        ([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`,
      )}
    </dl>`;
}

function Deletion({ picture, onDeleted }) {
  const [isSure, setSure] = useState(false);
  useEffect(() => setSure(false), [picture.id]);
  const remove = async () => {
    if (!isSure) {
      setSure(true);
      return;
    }
    try {
      await deletePicture(picture.id);
      onDeleted();
    } catch (error) {
      tell(errorText(error));
    }
  };
  return html`<button type="button" class="plain small danger" onClick=${remove}>
    <${Icon} name="trash" /> ${isSure ? t("delete.sure") : t("delete")}
  </button>`;
}

function Tools({ picture, close, onDeleted }) {
  const act = (action) => () => {
    close();
    action(picture);
  };
  const useSeed = () => {
    setForm({ seed: picture.seed, random_seed: false });
    goTo("draw");
    tell(t("seed.used", { seed: picture.seed }));
  };
  const mark = async () => look(await toggleFavourite(picture), viewed.value.among);
  return html`<div class="viewer-tools">
    <button type="button" class="primary" id="use-settings" onClick=${act(recallPicture)}>
      <${Icon} name="reuse" /> ${t("useSettings")}
    </button>
    <div class="button-row">
      <button type="button" class="plain small" onClick=${act(startFrom)}>
        <${Icon} name="picture" /> ${t("startFrom")}
      </button>
      <button type="button" class="plain small" onClick=${act(useSeed)}>
        <${Icon} name="dice" /> ${t("seed.useThis")}
      </button>
      <button type="button" class="plain small" aria-pressed=${String(picture.favourite)} onClick=${mark}>
        <${Icon} name="heart" filled=${picture.favourite} /> ${t("favourite")}
      </button>
      <a class="plain small" href=${picture.url} download=${`bdm-${picture.id}.png`}>
        <${Icon} name="download" /> ${t("download")}
      </a>
      <${Deletion} picture=${picture} onDeleted=${onDeleted} />
    </div>
  </div>`;
}

function Viewed({ picture, among }) {
  const index = among.findIndex((each) => each.id === picture.id);
  const close = () => (viewed.value = null);
  const step = (by) => {
    const next = among[index + by];
    if (index >= 0 && next) look(next, among);
  };
  const keys = (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  };
  const deleted = () => {
    const rest = among.filter((each) => each.id !== picture.id);
    viewed.value = rest.length ? { picture: rest[Math.min(index, rest.length - 1)], among: rest } : null;
    replacePicture(picture, null);
  };
  const title = titleOf(picture.order);
  return html`<${Dialog} title=${t("view.title")} onClose=${close} className="viewer" onKeyDown=${keys}>
    <div class="viewer-body">
      <div class="viewer-picture">
        <img src=${picture.url} alt=${title} width=${picture.width} height=${picture.height} style=${{ maxWidth: `${Math.max(320, 6 * picture.width)}px` }} />
        ${picture.blacked_out && html`<p class="warning">${t("blackedOut")}</p>`}
        ${among.length > 1 &&
        html`<div class="viewer-steps">
          <${IconButton} icon="left" label=${t("previous")} disabled=${index <= 0} onClick=${() => step(-1)} />
          <span>${index + 1} / ${among.length}</span>
          <${IconButton}
            icon="right"
            label=${t("next")}
            disabled=${index >= among.length - 1}
            onClick=${() => step(1)}
          />
        </div>`}
      </div>
      <div class="viewer-side">
        <${Tools} picture=${picture} close=${close} onDeleted=${deleted} />
        <${Facts} picture=${picture} />
      </div>
    </div>
  <//>`;
}

/** The dialog, where a picture is looked at. */
export function Viewer() {
  const shown = useValue(viewed);
  return shown && html`<${Viewed} picture=${shown.picture} among=${shown.among} />`;
}
