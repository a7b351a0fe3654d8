// Renders the formulas; opens the list of pages where there is room for it.
for (const element of document.querySelectorAll(".math")) {
  katex.render(element.textContent, element, {
    displayMode: element.classList.contains("display"),
    throwOnError: false,
  });
  // Keep the punctuation after a formula in the text on its line.
  const next = element.nextSibling;
  const mark = next && next.nodeType === Node.TEXT_NODE && next.data.match(/^[.,;:)]+/);
  const last = element.querySelector(".katex-html > .base:last-child");
  if (mark && last) {
    last.append(mark[0]);
    next.data = next.data.slice(mark[0].length);
  }
}
const pages = document.querySelector("nav > details");
pages.open = matchMedia("(min-width: 50.01rem)").matches;
