// Filling the form from a picture: one of the gallery, or a file that is dropped on the page.

import { readInfo } from "./api.js";
import { openSection } from "./controls.js";
import { tell } from "./notices.js";
import { goTo } from "./places.js";
import { errorText } from "./refusals.js";
import { recall, recallInfotext, setForm, startFromUpload } from "./settings.js";
import { mode } from "./sheets.js";
import { t } from "./strings.js";
import { send, uploadOf } from "./uploads.js";

/** All settings of a picture of the gallery. */
export function recallPicture(picture) {
  mode.value = "picture";
  recall(picture.order);
  goTo("draw");
  tell(t("restored"));
}

/** Begin the next picture from one of the gallery. */
export async function startFrom(picture) {
  const upload = await uploadOf(picture, "init_image");
  goTo("draw");
  if (upload === null) return;
  mode.value = "picture";
  setForm({ size: null });
  startFromUpload(upload);
  openSection("start");
  tell(t("startsFrom"));
}

async function startFromFile(file) {
  const upload = await send(file, "init_image");
  if (upload === null) return;
  setForm({ size: null });
  startFromUpload(upload);
  openSection("start");
}

/** What a dropped file says of its making; one that says nothing may be started from. */
export async function restoreFile(file) {
  let info;
  try {
    info = await readInfo(file);
  } catch (error) {
    tell(errorText(error));
    return;
  }
  goTo("draw");
  if (info.order !== null) {
    mode.value = "picture";
    recall(info.order);
    tell(t("restored"));
  } else if (info.prompt) {
    mode.value = "picture";
    recallInfotext(info);
    tell(t("restored.foreign"));
  } else {
    tell(t("restored.nothing"), [t("startFrom"), () => startFromFile(file)]);
  }
}
