"use strict";
// What the page does beyond showing: colours of light and dark, runs on and off, numbers under the pointer, filters.
// Text is only ever set with textContent.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  one("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // ------------------------------------------------------------------------------------------------ runs
  const off = new Set();
  for (const box of all("input[data-run]")) {
    box.addEventListener("change", () => {
      box.checked ? off.delete(box.dataset.run) : off.add(box.dataset.run);
      for (const part of all(`main .run-${box.dataset.run}:not(.group-card)`)) part.classList.toggle("off", !box.checked);
      filter();
    });
  }

  // ---------------------------------------------------------------------------------------------- charts
  const tip = one("#tip");
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  for (const chart of all("svg.chart")) {
    const lines = all("[data-line]", chart).map((group) => ({ group, ...JSON.parse(group.dataset.line) }));
    const cursor = one(".cursor", chart);
    const hide = () => { tip.hidden = true; cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); };
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("pointermove", (event) => {
      const frame = chart.getBoundingClientRect();
      const x = (event.clientX - frame.left) * chart.viewBox.baseVal.width / frame.width;
      const shown = lines.filter((line) => !line.group.classList.contains("off"));
      const nearest = shown.map((line) => line.x.reduce((best, at, i) => Math.abs(at - x) < Math.abs(line.x[best] - x) ? i : best, 0));
      if (!shown.length) return hide();
      const lead = shown.reduce((best, line, i) => Math.abs(line.x[nearest[i]] - x) < Math.abs(shown[best].x[nearest[best]] - x) ? i : best, 0);
      const at = shown[lead].x[nearest[lead]];
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      tip.replaceChildren(element("small", "", `at ${shown[lead].at[nearest[lead]]}`));
      shown.forEach((line, i) => {
        const row = element("p", [...line.group.classList].find((name) => /^run-\d/.test(name)));
        row.append(element("i", "swatch"), element("span", "", line.label), element("b", "", line.value[nearest[i]]));
        if (line.interval[nearest[i]]) row.append(element("small", "", line.interval[nearest[i]]));
        tip.append(row);
      });
      tip.hidden = false;
      const left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8);
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 14)}px`;
    });
  }

  // --------------------------------------------------------------------------------------------- gallery
  const form = one("#filters");
  const holder = one("#cards");
  const cards = all(".group-card").map((card) => ({ card, data: card.dataset, text: card.textContent.toLowerCase() }));
  const value = (id) => one(`#${id}`)?.value ?? "";
  function filter() {
    const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
    const [run, iteration, kind] = ["run", "iteration", "kind"].map(value);
    let shown = 0;
    for (const { card, data, text } of cards) {
      const fits = words.every((word) => text.includes(word)) && (!run || data.run === run) && !off.has(data.run)
        && (!iteration || data.iteration === iteration) && (!kind || data.kinds.split(" ").includes(kind));
      card.hidden = !fits;
      shown += fits;
    }
    one("#count").textContent = `${shown} shown`;
    one("#empty").hidden = shown > 0;
  }
  function sort() {
    const name = value("sort").replace("-", "");
    const sign = value("sort").startsWith("-") ? -1 : 1;
    const key = ({ data }) => { const number = Number(data[name]); return Number.isNaN(number) ? Infinity : sign * number; };
    holder.append(...[...cards].sort((a, b) => key(a) - key(b)).map(({ card }) => card));
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); sort(); }));
  one("#sort").addEventListener("change", sort);
  one("#clear").addEventListener("click", () => form.reset());

  for (const link of all("[data-group].link")) {
    link.addEventListener("click", () => {
      const target = cards.find(({ data }) => data.group === link.dataset.group && data.run === link.dataset.run)?.card;
      if (!target) return;
      form.reset();
      filter();
      for (const { card } of cards) card.classList.toggle("found", card === target);
      target.scrollIntoView({ block: "center" });
    });
  }
})();
