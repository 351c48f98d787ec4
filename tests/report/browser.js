// Works through the report's page as a reader does, and tells the page that frames it what came of it.
const found = { width: innerWidth, requests: performance.getEntriesByType("resource").map(entry => entry.name) };
const press = element => element.click();
const choose = (element, value) => { element.value = value; element.dispatchEvent(new Event("change", { bubbles: true })); };
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const colour = (element, name) => getComputedStyle(element)[name];

found.background = colour(document.body, "backgroundColor");
found.ink = colour(document.body, "color");
found.lines = all("svg polyline.line").slice(0, 4).map(line => colour(line, "stroke"));
found.folded = document.documentElement.scrollWidth;
for (const fold of all("details")) fold.open = true;
found.opened = document.documentElement.scrollWidth;
found.tables = Object.fromEntries(["matched", "matched-masks", "masks", "differences", "hypervolume"].map(name => {
  const fold = document.querySelector(`[data-table=${name}]`).parentElement;
  return [name, fold.scrollWidth - fold.clientWidth];
}));

found.charts = all("figure[data-plot] svg").map(svg => {
  const { width, height } = svg.viewBox.baseVal;
  const boxes = all("polyline, circle", svg).map(shape => shape.getBBox());
  const inside = box => box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height;
  const shown = svg.getBoundingClientRect();
  return { plot: svg.closest("figure").dataset.plot, shapes: boxes.length, inside: boxes.every(inside), area: shown.width * shown.height };
});

const table = document.querySelector("[data-table=figures]");
const column = place => [...table.tBodies[0].rows].map(row => row.cells[place].dataset.value ?? row.cells[place].textContent);
const headings = all("th", table);
found.headings = headings.map(heading => heading.textContent);
found.sorted = headings.map((heading, place) => {
  press(heading.querySelector("button"));
  const up = [heading.getAttribute("aria-sort"), column(place)];
  press(heading.querySelector("button"));
  return [up, [heading.getAttribute("aria-sort"), column(place)]];
});
found.others = all("[aria-sort]", table).length;

const tokens = () => all("#token-pairs .t").map(token => ({
  text: token.textContent, shade: token.style.getPropertyValue("--shade"), title: token.title, kind: token.className,
  line: colour(token, "borderBottomStyle"), background: colour(token, "backgroundColor"),
}));
found.heat = {};
for (const layer of all("[name=token-layer]")) {
  press(layer);
  found.heat[layer.value] = { tokens: tokens(), legends: all(".legend").filter(each => each.offsetParent).map(each => each.dataset.layer) };
}
press(document.querySelector("#token-pairs .t"));
found.detail = document.getElementById("token-detail").textContent;
found.marked = all("#token-pairs .t").map(token => colour(token, "textDecorationLine") === "underline");
press(document.getElementById("token-numbers"));
found.numbers = all("#token-pairs .t").map(token => getComputedStyle(token, "::after").content);
document.querySelector("#token-pairs .t").parentElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
found.next = document.getElementById("token-detail").textContent;
choose(document.getElementById("token-pair"), "2");
found.prompt = document.querySelector("#token-pairs .prompt").textContent;
choose(document.getElementById("token-setting"), "1");
found.cards = all("#token-pairs h3").map(title => title.textContent);

const visible = selector => all(selector).filter(each => each.offsetParent).map(each => each.querySelector("p, h3").textContent);
choose(document.getElementById("sample-prompt"), "1");
found.samples = visible(".sample");
found.every = visible(".sample .card").length;
choose(document.getElementById("sample-setting"), "2");
found.answers = visible(".sample .card");
found.lefts = new Set(all(".sample .card").filter(each => each.offsetParent).map(each => each.getBoundingClientRect().left)).size;

parent.postMessage(JSON.stringify(found).replaceAll("<", "\\u003c"), "*");
console.error("worked through");
