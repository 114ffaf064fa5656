"use strict";
// Without this script the page shows the same numbers; it links the charts of a model to its table.
for (const model of document.querySelectorAll("section.model")) {
  const rows = model.querySelectorAll("tbody tr");
  const readout = model.querySelector(".readout");
  const idle = readout ? readout.textContent : "";
  const show = (layer) => {
    model.querySelectorAll(".at").forEach((element) => element.classList.remove("at"));
    if (layer === null) { readout.textContent = idle; return; }
    model.querySelectorAll(`.column[data-layer="${layer}"]`).forEach((column) => column.classList.add("at"));
    rows[layer].classList.add("at");
    readout.textContent = rows[layer].dataset.readout;
  };
  for (const element of model.querySelectorAll(".column")) {
    element.addEventListener("pointerenter", () => show(Number(element.dataset.layer)));
    element.addEventListener("click", () => {
      const finding = rows[Number(element.dataset.layer)].dataset.finding;
      if (finding) location.hash = finding;
    });
  }
  rows.forEach((row, layer) => row.addEventListener("pointerenter", () => show(layer)));
  model.addEventListener("pointerleave", () => show(null));
  for (const button of model.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const hidden = model.classList.toggle(`hide-${button.dataset.series}`);
      button.setAttribute("aria-pressed", String(!hidden));
    });
  }
}
