// The budget explorer of book/course/costs.md: draws from the JSON that the page's own code wrote.
(function () {
  "use strict";
  const KINDS = { conv: "full", pointwise: "pointwise", depthwise: "depthwise", grouped: "grouped", linear: "linear" };
  const number = (value) => value.toLocaleString("en");

  function element(name, attributes, parent, text) {
    const made = document.createElement(name);
    Object.entries(attributes || {}).forEach(([key, value]) => made.setAttribute(key, value));
    if (text !== undefined) made.textContent = text;
    if (parent) parent.appendChild(made);
    return made;
  }

  function choice(form, label, id, values) {
    const box = element("label", { for: id }, form, label + " ");
    const select = element("select", { id: id }, box);
    values.forEach(([value, text]) => element("option", { value: value }, select, text));
    return select;
  }

  function start(place, data) {
    const form = element("form", { class: "explorer-form" }, place);
    const network = choice(form, "Network", "explorer-network", Object.keys(data).map((name) => [name, name]));
    const tier = choice(form, "Tier", "explorer-tier", [1, 2, 3, 4, 5].map((t) => [t, t]));
    const names = Object.keys(data[network.value].strategies);
    const strategy = choice(form, "Strategy", "explorer-strategy", names.map((name) => [name, name]));
    strategy.value = names[names.length - 1];
    const summary = element("p", { "aria-live": "polite", id: "explorer-summary" }, place);
    const scroll = element("div", { class: "explorer-scroll" }, place);

    function draw() {
      const { layers, budgets, strategies } = data[network.value];
      const budget = budgets[tier.value - 1];
      const [counts, searched] = strategies[strategy.value][tier.value - 1];
      const rows = layers.map(([name, kind, channels, weight, activation], index) => {
        const chosen = counts[index];
        return { index, name, kind, channels, chosen, weights: chosen * weight, inputs: chosen * activation };
      }).filter((row) => row.chosen);
      const sum = (key) => rows.reduce((total, row) => total + row[key], 0);
      const used = sum("weights") + sum("inputs");
      summary.textContent =
        number(sum("chosen")) + " channels in " + rows.length + " layers (of " + searched + " to choose from): " +
        number(used) + " of " + number(budget) + " elements (" + (100 * used / budget).toFixed(1) + " %), that is " +
        number(sum("weights")) + " weights and " + number(sum("inputs")) + " inputs, " + number(4 * used) + " bytes an image.";
      scroll.textContent = "";
      const table = element("table", { class: "explorer-table" }, scroll);
      element("caption", {}, table, "What is selected, layer by layer");
      const head = element("tr", {}, element("thead", {}, table));
      ["layer", "kind", "channels", "weights", "inputs", "share of the budget"].forEach((title) =>
        element("th", { scope: "col" }, head, title));
      const body = element("tbody", {}, table);
      const largest = Math.max(1, ...rows.map((row) => row.weights + row.inputs));
      rows.forEach((row) => {
        const line = element("tr", {}, body);
        element("th", { scope: "row" }, line, row.index + " " + row.name);
        element("td", {}, line, KINDS[row.kind]);
        element("td", {}, line, row.chosen + " of " + row.channels);
        element("td", {}, line, number(row.weights));
        element("td", {}, line, number(row.inputs));
        const cell = element("td", { class: "explorer-bar" }, line);
        const share = (100 * (row.weights + row.inputs) / budget).toFixed(1) + " %";
        const bar = element("span", { class: "explorer-bars", "aria-hidden": "true" }, cell);
        element("span", { class: "explorer-weights", style: "width:" + 80 * row.weights / largest + "px" }, bar);
        element("span", { class: "explorer-inputs", style: "width:" + 80 * row.inputs / largest + "px" }, bar);
        element("span", {}, cell, share);
      });
    }

    form.addEventListener("change", draw);
    form.addEventListener("submit", (event) => event.preventDefault());
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const place = document.getElementById("budget-explorer");
    const data = document.getElementById("budget-data");
    if (place && data) start(place, JSON.parse(data.textContent));
  });
})();
