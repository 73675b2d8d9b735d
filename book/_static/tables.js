// Tables of the notebooks: the columns that name a row stay in sight, as many of them as leave room for the numbers.
(function () {
  "use strict";
  function place(table) {
    const room = 0.45 * table.parentElement.clientWidth;
    const heads = [...table.tHead.rows[0].cells];
    const lefts = [];
    let left = 0;
    for (const head of heads.slice(0, Number(table.dataset.names) || 1)) {
      if (lefts.length && left + head.offsetWidth > room) break;
      lefts.push(left);
      left += head.offsetWidth;
    }
    for (const row of table.rows) {
      [...row.cells].forEach((cell, index) => {
        cell.classList.toggle("frozen", index < lefts.length);
        cell.style.left = index < lefts.length ? lefts[index] + "px" : "";
      });
    }
  }

  const all = () => document.querySelectorAll(".table-scroll table").forEach(place);
  document.addEventListener("DOMContentLoaded", all);
  window.addEventListener("resize", all);
})();
