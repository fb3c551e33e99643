// A file is read in the browser and sent as text with the request: nothing of it is stored.
const input = element.querySelector("input");
const told = element.querySelector(".told");
const take = async () => {
  const file = input.files[0];
  if (!file) {
    props.value = null;
    told.textContent = "";
    return;
  }
  if (file.size > props.most_bytes) {
    props.value = JSON.stringify({ name: file.name, size: file.size });
    told.textContent = `${(file.size / 1e6).toFixed(1)} MB: too large`;
    return;
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000)
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  props.value = JSON.stringify({ name: file.name, size: file.size, base64: btoa(text) });
  told.textContent = file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
};
input.addEventListener("change", take);
