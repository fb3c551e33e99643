// A file is read in the browser and sent as text with the request: nothing of it is stored.
const input = element.querySelector("input");
const told = element.querySelector(".told");
const send = (file, size, more) => {
  props.value = JSON.stringify({ name: file.name, size: file.size, ...more });
  told.textContent = `${file.name}, ${size}`;
};
input.addEventListener("change", async () => {
  const file = input.files[0];
  if (!file) return;
  if (file.size > props.most_bytes) {
    send(file, `${(file.size / 1e6).toFixed(1)} MB: too large`);
  } else {
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text = "";
    for (let start = 0; start < bytes.length; start += 0x8000)
      text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
    const size = file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
    send(file, size, { base64: btoa(text) });
  }
  input.value = ""; // so that the same file, changed meanwhile, can be chosen again
});
