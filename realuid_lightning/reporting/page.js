"use strict";
// A slider shows the pictures of its step; a legend's button hides and shows a sampler in the figures of its section.
for (const box of document.querySelectorAll("[data-steps]")) {
  const steps = JSON.parse(box.dataset.steps), slider = box.querySelector("input"), said = box.querySelector("output");
  slider.addEventListener("input", () => {
    said.textContent = "step " + steps[slider.value];
    slider.setAttribute("aria-valuetext", said.textContent);
    for (const image of box.querySelectorAll("img")) image.hidden = image.dataset.at !== slider.value;
  });
}
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of button.closest(".curves").querySelectorAll(`svg [data-line="${button.dataset.line}"]`))
      part.classList.toggle("hidden", !shown);
  });
}
