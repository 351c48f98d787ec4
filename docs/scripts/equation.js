"use strict";

/* The equation of one pair, as prefopt.objective has it, with its gradient written out. Tests compare both with the library's. */

const LINKS = {
  logistic: { value: (d) => Math.max(-d, 0) + Math.log1p(Math.exp(-Math.abs(d))), slope: (d) => -1 / (1 + Math.exp(d)) },
  hinge: { value: (d, m) => Math.max(0, m - d), slope: (d, m) => (d < m ? -1 : 0) },
  squared: { value: (d, m) => (d - m) ** 2, slope: (d, m) => 2 * (d - m) },
};

/**
 * setting: beta, alpha, shaping ("sum", "mean"), units ("response", "token"), reduction ("mean", "sum"), link, target,
 * shared (v = w, else v = 1), detached (the chosen divergence passes no gradient); chosen and rejected: lists of
 * {ratio, weight, divergence}. Returns rewards by token and response, margin, loss, and the loss's gradient by token.
 */
function equation(setting) {
  const sides = { chosen: setting.chosen, rejected: setting.rejected };
  const rewards = {};
  for (const [side, tokens] of Object.entries(sides)) {
    rewards[side] = tokens.map((token) => {
      const v = setting.shared ? token.weight : 1;
      return token.weight * token.ratio + setting.alpha * v * token.divergence;
    });
  }
  const byToken = setting.units === "token";
  const count = byToken ? Math.min(rewards.chosen.length, rewards.rejected.length) : 1;
  const share = (side) => (setting.shaping === "mean" && !byToken ? 1 / rewards[side].length : 1);
  const unit = (side, k) => {
    const terms = byToken ? [rewards[side][k]] : rewards[side];
    return setting.beta * share(side) * terms.reduce((sum, term) => sum + term, 0);
  };
  const link = LINKS[setting.link];
  const scale = setting.reduction === "mean" ? 1 / count : 1;
  const total = { chosen: 0, rejected: 0 };
  const slopes = [];
  let loss = 0;
  for (let k = 0; k < count; k += 1) {
    const [chosen, rejected] = [unit("chosen", k), unit("rejected", k)];
    total.chosen += chosen;
    total.rejected += rejected;
    loss += scale * link.value(chosen - rejected, setting.target);
    slopes.push(scale * link.slope(chosen - rejected, setting.target));
  }
  const gradient = {};
  for (const [side, tokens] of Object.entries(sides)) {
    const sign = side === "chosen" ? 1 : -1;
    gradient[side] = tokens.map((token, t) => {
      const slope = byToken ? (t < count ? slopes[t] : 0) : slopes[0];
      const reward = sign * slope * setting.beta * share(side);
      const v = setting.shared ? token.weight : 1;
      const passes = side === "chosen" && setting.detached ? 0 : 1;
      return { ratio: reward * token.weight, divergence: passes * reward * setting.alpha * v };
    });
  }
  return { tokens: rewards, rewards: total, margin: total.chosen - total.rejected, loss, gradient };
}

const START = {
  beta: 0.5, alpha: 0, shaping: "sum", units: "response", reduction: "mean", link: "logistic", target: 1, shared: true, detached: false,
  chosen: [["a", 0.1, 0.05], ["quiet", 0.4, 0.3], ["triumph", 1.2, 0.8]].map(([text, ratio, divergence]) => ({ text, ratio, weight: 1, divergence })),
  rejected: [["a", 0.1, 0.05], ["loud", -0.3, 0.2], ["mess", -0.9, 0.5]].map(([text, ratio, divergence]) => ({ text, ratio, weight: 1, divergence })),
};
const PRESETS = {
  DPO: { alpha: 0, units: "response", link: "logistic", shaping: "sum" },
  TDPO1: { alpha: 1, shared: true, detached: false, units: "response", link: "logistic", shaping: "sum" },
  TDPO2: { alpha: 0.5, shared: true, detached: true, units: "response", link: "logistic", shaping: "sum" },
  "a mask": { alpha: 1, shared: false, detached: true, units: "response", link: "logistic", shaping: "sum", weights: [0, 0, 2] },
  "token by token": { alpha: 0, units: "token", link: "logistic", shaping: "sum" },
};
const RANGES = { ratio: [-3, 3, 0.05], weight: [0, 3, 0.05], divergence: [0, 3, 0.05], beta: [0.05, 2, 0.05], alpha: [0, 2, 0.05] };
const CHOICES = { shaping: ["sum", "mean"], units: ["response", "token"], reduction: ["mean", "sum"], link: Object.keys(LINKS) };
const LABELS = { ratio: "log-ratio", weight: "weight w", divergence: "divergence D" };

function playground(root) {
  const setting = structuredClone(START);
  const shown = [];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const slider = (label, holder, name) => {
    const [min, max, step] = RANGES[name];
    const number = make("output");
    const input = make("input", { type: "range", min, max, step, value: holder[name], ariaLabel: label });
    input.addEventListener("input", () => { holder[name] = Number(input.value); redraw(); });
    shown.push(() => { input.value = holder[name]; number.textContent = holder[name].toFixed(2); });
    return make("label", { className: "slider" }, make("span", { textContent: LABELS[name] ?? name }), input, number);
  };
  const choice = (name) => {
    const select = make("select", {}, ...CHOICES[name].map((text) => make("option", { textContent: text })));
    select.addEventListener("change", () => { setting[name] = select.value; redraw(); });
    shown.push(() => { select.value = setting[name]; });
    return make("label", {}, make("span", { textContent: name }), select);
  };
  const tick = (name, text) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => { setting[name] = box.checked; redraw(); });
    shown.push(() => { box.checked = setting[name]; });
    return make("label", {}, box, make("span", { textContent: text }));
  };
  const bar = (label, value, width) => {
    const fill = make("i");
    const number = make("b");
    shown.push((result) => {
      const amount = value(result);
      const end = 50 + 50 * Math.max(-1, Math.min(1, amount / width));
      fill.style.cssText = `--from:${Math.min(50, end)}%;--to:${Math.max(50, end)}%`;
      fill.className = amount < 0 ? "negative" : "positive";
      number.textContent = amount.toFixed(3).replace("-", "\u2212");
    });
    return make("div", { className: "bar" }, make("span", { textContent: label }), make("span", { className: "track" }, fill), number);
  };
  const card = (side, t) => {
    const token = setting[side][t];
    return make("fieldset", {}, make("legend", { textContent: token.text }),
      ...["ratio", "weight", "divergence"].map((name) => slider(`${LABELS[name]} of ${side} token ${token.text}`, token, name)),
      bar("reward", (result) => result.tokens[side][t], 4),
      bar("∂loss/∂log π", (result) => result.gradient[side][t].ratio, 0.5),
      bar("∂loss/∂D", (result) => result.gradient[side][t].divergence, 0.5));
  };
  const response = (side) => make("section", { className: side },
    make("h2", { textContent: side }),
    make("div", { className: "tokens" }, ...setting[side].map((_, t) => card(side, t))),
    bar(`r(${side})`, (result) => result.rewards[side], 4));
  const preset = (name) => {
    const button = make("button", { type: "button", className: "md-button", textContent: name });
    button.addEventListener("click", () => {
      const { weights = [1, 1, 1], ...rest } = PRESETS[name];
      Object.assign(setting, rest);
      for (const side of ["chosen", "rejected"]) setting[side].forEach((token, t) => { token.weight = weights[t]; });
      redraw();
    });
    return button;
  };
  const summary = make("p", { className: "summary" });
  summary.setAttribute("role", "status");
  shown.push((result) => {
    summary.textContent = `margin ${result.margin.toFixed(3)}, loss ${result.loss.toFixed(4)}`.replaceAll("-", "\u2212");
  });
  function redraw() {
    const result = equation(setting);
    for (const show of shown) show(result);
  }
  root.replaceChildren(
    make("div", { className: "presets" }, ...Object.keys(PRESETS).map(preset)),
    make("div", { className: "settings" }, slider("beta", setting, "beta"), slider("alpha", setting, "alpha"),
      ...Object.keys(CHOICES).map(choice), tick("shared", "v = w, else v = 1"), tick("detached", "chosen D passes no gradient")),
    response("chosen"), response("rejected"), summary);
  redraw();
}

globalThis.prefoptEquation = equation;
document.querySelectorAll(".playground").forEach(playground);
