// The API key, where the service wants one: asked for in a dialog, kept in this tab's session and nowhere else.

const SLOT = "meanwhile-key";
const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const forget = document.getElementById("forget-key");

let asking = null;

export const key = () => sessionStorage.getItem(SLOT);
export const headers = () => (key() === null ? {} : { Authorization: `Bearer ${key()}` });

/** Asks for a key; resolves when one has been given. Whoever asks meanwhile waits for the same answer. */
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

dialog.addEventListener("cancel", (event) => event.preventDefault()); // Without a key there is nothing to show.

forget.hidden = key() === null;
forget.addEventListener("click", () => {
  sessionStorage.removeItem(SLOT);
  location.reload();
});
