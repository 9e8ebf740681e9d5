// Painting the mask of what is redrawn: white on black, at the initial picture's size.

import { uploadUrl } from "./api.js";
import { Dialog } from "./dialog.js";
import { Problem, Segments } from "./controls.js";
import { LARGEST, SMALLEST, useStrokes } from "./mask_strokes.js";
import { send } from "./uploads.js";
import { t } from "./strings.js";
import { html, useEffect, useRef, useState } from "./view.js";

const MOST_UNDONE = 20;

function load(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });
}

/** A mask's picture (white on black) <=> what is painted (opaque where it is white). */
function paintFrom(context, image) {
  const { width, height } = context.canvas;
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data[at + 3] = pixels.data[at] > 127 ? 255 : 0;
    pixels.data.fill(255, at, at + 3);
  }
  context.putImageData(pixels, 0, 0);
}

function maskFile(canvas) {
  const flat = document.createElement("canvas");
  flat.width = canvas.width;
  flat.height = canvas.height;
  const context = flat.getContext("2d");
  context.fillRect(0, 0, flat.width, flat.height);
  context.drawImage(canvas, 0, 0);
  return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
}

function isEmpty(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return !data.some((value, at) => at % 4 === 3 && value > 0);
}

/** A dialog over the page; `onMask` gets the upload of the mask, or null for an empty one. */
export function MaskEditor({ picture, mask, onMask, onClose }) {
  const canvas = useRef(null);
  const undo = useRef([]);
  const [size, setSize] = useState(18);
  const [tool, setTool] = useState("paint");
  const [undoable, setUndoable] = useState(0);
  const [ratio, setRatio] = useState(1); // width / height

  useEffect(() => {
    let gone = false;
    (async () => {
      const image = await load(uploadUrl(picture));
      if (gone) return;
      canvas.current.width = image.naturalWidth;
      canvas.current.height = image.naturalHeight;
      setRatio(image.naturalWidth / image.naturalHeight);
      if (mask === null) return;
      const painted = await load(uploadUrl(mask));
      if (!gone) paintFrom(canvas.current.getContext("2d", { willReadFrequently: true }), painted);
    })();
    return () => (gone = true);
  }, [picture]);

  const context = () => canvas.current.getContext("2d", { willReadFrequently: true });
  const whole = () => [0, 0, canvas.current.width, canvas.current.height];
  const before = () => {
    undo.current = [...undo.current, context().getImageData(...whole())].slice(-MOST_UNDONE);
    setUndoable(undo.current.length);
  };
  const takeBack = () => {
    const pixels = undo.current.pop();
    if (pixels) context().putImageData(pixels, 0, 0);
    setUndoable(undo.current.length);
  };
  const clear = () => {
    before();
    context().clearRect(...whole());
  };
  const invert = () => {
    before();
    context().globalCompositeOperation = "xor";
    context().fillStyle = "#fff";
    context().fillRect(...whole());
    context().globalCompositeOperation = "source-over";
  };
  const done = async () => {
    if (isEmpty(canvas.current)) {
      onMask(null);
      onClose();
      return;
    }
    const upload = await send(await maskFile(canvas.current), "mask");
    if (upload === null) return;
    onMask(upload.id);
    onClose();
  };
  const erases = tool === "erase";
  const { place, said, ...strokes } = useStrokes(canvas, { size, setSize, erases, before });

  return html`<${Dialog} title=${t("mask.title")} onClose=${onClose} className="mask-editor" isKept>
    <p class="hint" id="mask-help">${t("mask.help")} ${t("mask.keys")}</p>
    <div class="mask-tools">
      <${Segments}
        label=${t("mask.tool")}
        value=${tool}
        options=${[
          ["paint", t("mask.brush")],
          ["erase", t("mask.eraser")],
        ]}
        onChange=${setTool}
      />
      <label class="brush-size">
        ${t("mask.size")}
        <input
          type="range"
          min=${SMALLEST}
          max=${LARGEST}
          value=${size}
          onInput=${(event) => setSize(event.target.valueAsNumber)}
        />
      </label>
      <button type="button" class="plain small" disabled=${undoable === 0} onClick=${takeBack}>
        ${t("mask.undo")}
      </button>
      <button type="button" class="plain small" onClick=${invert}>${t("mask.invert")}</button>
      <button type="button" class="plain small" onClick=${clear}>${t("mask.clear")}</button>
    </div>
    <div class="mask-canvas" style=${{ "--ratio": ratio }}>
      <img src=${uploadUrl(picture)} alt=${t("init_image")} />
      <canvas
        ref=${canvas}
        id="mask-canvas"
        role="application"
        tabindex="0"
        aria-label=${t("mask.canvas")}
        aria-describedby="mask-help"
        ...${strokes}
      ></canvas>
      ${place &&
      html`<span
        class=${erases ? "mask-brush erases" : "mask-brush"}
        aria-hidden="true"
        style=${{ left: `${place.x}%`, top: `${place.y}%`, width: `${place.width}%` }}
      ></span>`}
    </div>
    <p class="visually-hidden" role="status" id="mask-said">${said}</p>
    <${Problem} field="mask" />
    <div class="button-row end">
      <button type="button" class="plain" onClick=${onClose}>${t("cancel")}</button>
      <button type="button" class="primary" id="mask-done" onClick=${done}>${t("mask.done")}</button>
    </div>
  <//>`;
}
