// Short messages that come and go by themselves.

import { html, signal, useValue } from "./view.js";

const SHOWN_FOR = 6000; // milliseconds

const notice = signal(null);
let timer = null;

/** Show a message; `action` is [text, what it does]. */
export function tell(text, action = null) {
  clearTimeout(timer);
  notice.value = { text, action };
  timer = setTimeout(() => (notice.value = null), SHOWN_FOR);
}

/** Where messages appear. */
export function Notices() {
  const told = useValue(notice);
  const act = () => {
    notice.value = null;
    told.action[1]();
  };
  return html`<div class="notices" role="status">
    ${told &&
    html`<div class="notice">
      <span>${told.text}</span>
      ${told.action && html`<button type="button" class="link" onClick=${act}>${told.action[0]}</button>`}
    </div>`}
  </div>`;
}
