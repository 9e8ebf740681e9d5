// The pointer and the keyboard => strokes on the mask's canvas.

import { t } from "./strings.js";
import { useEffect, useRef, useState } from "./view.js";

// The brush's size in hundredths of the longer side.
export const SMALLEST = 2;
export const LARGEST = 60;
const SIZE_STEP = 2;
const SAID_AFTER = 150; // milliseconds without a key, so that a held key is not read out at each step

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const GROW = { "+": SIZE_STEP, "=": SIZE_STEP, "-": -SIZE_STEP, _: -SIZE_STEP };

const within = (value, least, most) => Math.min(most, Math.max(least, value));

const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

/** A line, with round ends, of the brush's width in pixels. */
function drawLine(canvas, [fromX, fromY], [toX, toY], { width, erases }) {
  const context = contextOf(canvas);
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  context.strokeStyle = "#fff";
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX + 0.01, toY); // a point is a line of almost no length
  context.stroke();
  context.globalCompositeOperation = "source-over";
}

const isPainted = (canvas, [x, y]) =>
  contextOf(canvas).getImageData(Math.floor(x), Math.floor(y), 1, 1).data[3] > 127;

/**
 * What the canvas listens to, and for the keyboard `place`: where the brush is and how wide, in
 * hundredths of the canvas, and `said`: what is read out.
 *
 * `size` is the brush's, which `setSize` changes; `before` is called before each stroke.
 */
export function useStrokes(canvas, { size, setSize, erases, before }) {
  const brush = useRef(size);
  brush.current = size; // keys may come more quickly than the page is drawn anew
  const pointer = useRef(null); // where a stroke of the pointer has come to
  const spot = useRef(null); // where the keyboard's brush is
  const isDown = useRef(false); // whether the space bar is
  const [place, setPlace] = useState(null);
  const [said, setSaid] = useState("");
  const timer = useRef(null);
  useEffect(() => () => clearTimeout(timer.current), []);

  const sides = () => [canvas.current.width, canvas.current.height];
  const brushWidth = () => (brush.current / 100) * Math.max(...sides());
  const line = (from, to) => drawLine(canvas.current, from, to, { width: brushWidth(), erases });
  const placeOf = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const [width, height] = sides();
    return [
      ((event.clientX - box.left) / box.width) * width,
      ((event.clientY - box.top) / box.height) * height,
    ];
  };
  const stroke = (to) => {
    line(pointer.current ?? to, to);
    pointer.current = to;
  };
  const say = (text) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setSaid(text()), SAID_AFTER);
  };
  const show = () => {
    const [width, height] = sides();
    spot.current ??= [width / 2, height / 2];
    const [x, y] = spot.current;
    const percent = { x: (100 * x) / width, y: (100 * y) / height };
    setPlace({ ...percent, width: (100 * brushWidth()) / width });
    return { x: Math.round(percent.x), y: Math.round(percent.y) };
  };
  const tellPlace = () => {
    const at = show();
    say(() => t(isPainted(canvas.current, spot.current) ? "mask.at.painted" : "mask.at.free", at));
  };
  const move = ([right, down], isFine) => {
    const [width, height] = sides();
    const step = isFine ? 1 : Math.max(1, brushWidth() / 3);
    const [x, y] = spot.current;
    // Never off the last pixel, so that there is one under the brush.
    const to = [within(x + right * step, 0, width - 1), within(y + down * step, 0, height - 1)];
    if (isDown.current) line(spot.current, to);
    spot.current = to;
    tellPlace();
  };
  const resize = (by) => {
    brush.current = within(brush.current + by, SMALLEST, LARGEST);
    setSize(brush.current);
    show();
    say(() => t("mask.size.is", { size: brush.current }));
  };

  return {
    place,
    said,
    onPointerDown(event) {
      if (event.button !== 0) return;
      canvas.current.setPointerCapture(event.pointerId);
      before();
      stroke(placeOf(event));
    },
    onPointerMove(event) {
      if (pointer.current === null) return;
      // What happened between two frames counts too, or quick strokes have corners.
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const each of moves.length ? moves : [event]) stroke(placeOf(each));
    },
    onPointerUp() {
      pointer.current = null;
    },
    onPointerCancel() {
      pointer.current = null;
    },
    onKeyDown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (!(event.key in ARROWS) && !(event.key in GROW) && event.key !== " ") return;
      event.preventDefault(); // or the page would scroll
      show();
      if (event.key in ARROWS) move(ARROWS[event.key], event.shiftKey);
      else if (event.key in GROW) resize(GROW[event.key]);
      else if (!isDown.current) {
        isDown.current = true;
        before();
        line(spot.current, spot.current);
        tellPlace();
      }
    },
    onKeyUp(event) {
      if (event.key === " ") isDown.current = false;
    },
    onFocus(event) {
      if (event.target.matches(":focus-visible")) tellPlace();
    },
    onBlur() {
      isDown.current = false;
      setPlace(null);
    },
  };
}
