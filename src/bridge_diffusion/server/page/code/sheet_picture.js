// A comparison or a grid as one PNG with its labels.

import { jobs } from "./jobs.js";
import { t } from "./strings.js";

const GAP = 12;
const FONT = 16;
const SMALLEST = 160; // pixels a side of a picture, so that labels find room

function load(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });
}

/** Rows and columns of jobs, with the labels over and beside them. */
function layoutOf(sheet) {
  if (sheet.kind === "compare") {
    const heads = sheet.cells.map(({ role, job }) => [
      t(`compare.${role}`),
      jobs.value.get(job).order.prompt,
    ]);
    return { heads, sides: [""], jobs: [sheet.cells.map((cell) => cell.job)] };
  }
  const { rows, columns, cells } = sheet;
  const at = (row, column) => cells.find((cell) => cell.row === row && cell.column === column).job;
  return {
    heads: columns.labels.map((label) => [label]),
    sides: rows.labels,
    jobs: rows.labels.map((_, row) => columns.labels.map((_, column) => at(row, column))),
  };
}

async function draw(sheet) {
  const layout = layoutOf(sheet);
  const urls = layout.jobs.map((row) => row.map((id) => jobs.value.get(id).pictures[0].url));
  const images = await Promise.all(urls.map((row) => Promise.all(row.map(load))));
  const all = images.flat();
  const width = Math.max(SMALLEST, ...all.map((image) => image.naturalWidth));
  const ratio = Math.max(...all.map((image) => image.naturalHeight / image.naturalWidth));
  const height = Math.round(width * ratio);
  const head = GAP + layout.heads[0].length * FONT * 1.4;
  const side = layout.sides.some(Boolean) ? width * 0.6 : 0;
  const canvas = document.createElement("canvas");
  canvas.width = side + GAP + layout.heads.length * (width + GAP);
  canvas.height = head + layout.sides.length * (height + GAP);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1c2321";
  context.font = `${FONT}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const left = (column) => side + GAP + column * (width + GAP);
  const top = (row) => head + row * (height + GAP);
  layout.heads.forEach((lines, column) =>
    lines.forEach((line, index) =>
      context.fillText(line, left(column) + width / 2, GAP / 2 + FONT * (0.7 + 1.4 * index), width),
    ),
  );
  layout.sides.forEach((text, row) =>
    context.fillText(text, side / 2, top(row) + height / 2, Math.max(1, side - GAP)),
  );
  images.forEach((row, at) =>
    row.forEach((image, column) => {
      const tall = (width * image.naturalHeight) / image.naturalWidth;
      context.drawImage(image, left(column), top(at), width, tall);
    }),
  );
  return canvas;
}

/** Download a sheet whose jobs are done. */
export async function savePicture(sheet) {
  const canvas = await draw(sheet);
  canvas.toBlob((file) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${sheet.group}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}
