// A dialog over the page: the browser keeps the focus in it, and Esc closes it.

import { IconButton } from "./controls.js";
import { t } from "./strings.js";
import { html, useEffect, useRef } from "./view.js";

/** Shown as long as it is drawn. One that `isKept` is not closed by a click beside it. */
export function Dialog({ title, onClose, className = "", children, onKeyDown, isKept = false }) {
  const dialog = useRef(null);
  useEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    return () => shown.close();
  }, []);
  return html`<dialog
    ref=${dialog}
    class=${className}
    aria-label=${title}
    onCancel=${(event) => {
      event.preventDefault();
      onClose();
    }}
    onKeyDown=${onKeyDown}
    onClick=${(event) => !isKept && event.target === dialog.current && onClose()}
  >
    <div class="dialog-body">
      <header class="dialog-head">
        <h2>${title}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${onClose} />
      </header>
      ${children}
    </div>
  </dialog>`;
}
