// Renders the formulas; opens the list of pages where there is room for it.
for (const element of document.querySelectorAll(".math")) {
  katex.render(element.textContent, element, {
    displayMode: element.classList.contains("display"),
    throwOnError: false,
  });
}
const pages = document.querySelector("nav > details");
pages.open = matchMedia("(min-width: 50.01rem)").matches;
