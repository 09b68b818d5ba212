"use strict";
const NUMBER = /^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i;
const number = text => {
  const found = text.replace(/[−–](?=\d)/g, "-").match(NUMBER);
  return found ? parseFloat(found[0]) : null;
};
const empty = text => /^\s*[–-]?\s*$/.test(text);

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const sort = column => {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    const text = row => row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    const fixed = rows.filter(row => row.classList.contains("floor"));
    const moved = rows.filter(row => !row.classList.contains("floor"));
    const words = heads[column].classList.contains("word") || moved.some(row => !empty(text(row)) && number(text(row)) === null);
    moved.sort((a, b) => {
      if (empty(text(a)) || empty(text(b))) return empty(text(a)) - empty(text(b));
      const order = words ? text(a).localeCompare(text(b), "en", { numeric: true }) : number(text(a)) - number(text(b));
      return up ? order : -order;
    });
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...fixed, ...moved);
  };
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => sort(i)));
}

const copy = async element => {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch {
    getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
};
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await copy(document.getElementById(button.dataset.copy));
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
