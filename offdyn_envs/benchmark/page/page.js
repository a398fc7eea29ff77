"use strict";
(function () {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

  const theme = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; });

  const sort = (table, column, falling) => {
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.sort;
    const rows = Array.from(body.rows);
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") { return (x === "") - (y === ""); }
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return falling ? -order : order;
    });
    body.append(...rows);
    all("thead th", table).forEach((head, index) => {
      if (index === column) { head.setAttribute("aria-sort", falling ? "descending" : "ascending"); }
      else { head.removeAttribute("aria-sort"); }
    });
  };

  all("table.sortable").forEach((table) => {
    const heads = all("thead th", table);
    const select = document.createElement("select");
    heads.forEach((head, index) => {
      const name = head.textContent.trim();
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(table, index, now ? now === "ascending" : head.dataset.first !== "up");
      });
      select.append(new Option(name, String(index)));
    });
    const chosen = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    select.value = String(Math.max(chosen, 0));
    select.addEventListener("change", () => {
      const index = Number(select.value);
      sort(table, index, heads[index].dataset.first !== "up");
    });
    const label = document.createElement("label");
    label.className = "sorter";
    label.append("Sort by ", select);
    table.before(label);
  });

  const pick = (name) => {
    const root = document.documentElement;
    root.classList.toggle("picked", name !== null);
    all(".series").forEach((series) => series.classList.toggle("on", series.dataset.entry === name));
    all(".legend button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.entry === name)));
  };
  all(".legend li[data-entry]").forEach((item) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.entry = item.dataset.entry;
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => pick(button.getAttribute("aria-pressed") === "true" ? null : button.dataset.entry));
  });
  all(".filters").forEach((box) => {
    const track = box.closest(".track"), chosen = all("select", box), told = box.querySelector("[role=status]");
    const apply = () => {
      const fits = (line) => chosen.every((one) => !one.value || line.dataset[one.dataset.filter] === one.value);
      all("[data-family]", track).forEach((line) => { line.hidden = !fits(line); });
      const lines = all(".forest [data-family]", track);
      told.textContent = lines.filter((line) => !line.hidden).length + " of " + lines.length + " entries";
    };
    chosen.forEach((one) => one.addEventListener("change", apply));
    box.hidden = false;
    apply();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { pick(null); } });

  const tracks = all(".track");
  if (tracks.length > 1) {
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Tracks");
    const show = (index) => {
      tracks.forEach((track, i) => { track.hidden = i !== index; });
      all("button", list).forEach((tab, i) => {
        tab.setAttribute("aria-selected", String(i === index));
        tab.tabIndex = i === index ? 0 : -1;
      });
    };
    tracks.forEach((track, index) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", track.id);
      tab.id = track.id + "-tab";
      tab.textContent = track.dataset.name;
      track.setAttribute("role", "tabpanel");
      track.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(index));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) {
          const next = (index + step + tracks.length) % tracks.length;
          show(next);
          list.children[next].focus();
        }
      });
      list.append(tab);
    });
    tracks[0].before(list);
    show(0);
  }

  all(".command").forEach((box) => {
    if (!navigator.clipboard) { return; }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(box.querySelector("pre").textContent).then(() => { button.textContent = "Copied"; });
    });
    box.append(button);
  });
})();
