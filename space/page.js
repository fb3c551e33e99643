// An answer, or the sentence about an input, that came outside of what is seen, as on a phone, is brought into sight.
window.showAnswer = (name) =>
  setTimeout(() => {
    const result = document.getElementById(name);
    const problem = result.closest("[role=tabpanel]")?.querySelector(".problem-place .problem");
    const { top, bottom } = (problem ?? result).getBoundingClientRect();
    if (top > window.innerHeight - 120 || bottom < 0)
      (problem ?? result).scrollIntoView({ block: problem ? "center" : "start" });
  }, 100);

// The read-out below a heat map: by mouse, by touch and by the arrow keys.
(() => {
  const show = (map, cell) => {
    map.querySelectorAll(".cell.current").forEach((one) => one.classList.remove("current"));
    cell.classList.add("current");
    const readout = map.parentElement.querySelector(".readout");
    if (readout) readout.textContent = cell.dataset.told;
  };
  const cellAt = (map, row, column) =>
    map.querySelector(`.cell[data-row="${row}"][data-column="${column}"]`);
  for (const kind of ["pointerover", "click"])
    document.addEventListener(kind, (event) => {
      const cell = event.target.closest?.(".map .cell");
      if (cell) show(cell.closest(".map"), cell);
    });
  document.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" || !event.target.closest?.(".map")) return;
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest(".map .cell");
    if (cell) show(cell.closest(".map"), cell);
  });
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const map = event.target.closest?.(".map"), move = moves[event.key];
    if (!map || !move || event.target !== map) return;
    const current = map.querySelector(".cell.current");
    const next = current
      ? cellAt(map, +current.dataset.row + move[0], +current.dataset.column + move[1])
      : cellAt(map, 0, 0);
    if (next) show(map, next);
    event.preventDefault();
  });
})();
