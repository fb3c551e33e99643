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
