// The API key, if the service requires one: a dialog asks for it, and only the session storage of this tab keeps it.

const SLOT = "meanwhile-key";
document.body.insertAdjacentHTML("beforeend", `
  <dialog id="key-dialog" aria-labelledby="key-title">
    <form method="dialog" id="key-form">
      <h2 id="key-title">This service needs an API key</h2>
      <p id="key-reason"></p>
      <label>Key <input type="password" name="key" required autocomplete="off" spellcheck="false"></label>
      <p class="note">The key is kept in this tab until you close it, and is sent only to this service.</p>
      <button class="main">Use key</button>
    </form>
  </dialog>`);
const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const forget = document.getElementById("forget-key");

let asking = null;

export const key = () => sessionStorage.getItem(SLOT);
export const headers = () => (key() === null ? {} : { Authorization: `Bearer ${key()}` });

/** Asks for a key and resolves when the user has entered one. Calls while the dialog is open share its result. */
export function ask(reason) {
  asking ??= new Promise((resolve) => {
    document.getElementById("key-reason").textContent = reason;
    form.elements.key.value = "";
    dialog.showModal();
    form.elements.key.focus();
    dialog.addEventListener("close", () => {
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

form.addEventListener("submit", () => {
  sessionStorage.setItem(SLOT, form.elements.key.value.trim());
  form.elements.key.value = "";
  forget.hidden = false;
});

dialog.addEventListener("cancel", (event) => event.preventDefault()); // The page needs a key.

forget.hidden = key() === null;
forget.addEventListener("click", () => {
  sessionStorage.removeItem(SLOT);
  location.reload();
});
