"use strict";

/* What the theme leaves unnamed or out of the keyboard's reach: the search dialog, buttons of code, and code that scrolls. */

const named = (selector, label) => document.querySelectorAll(selector).forEach((element, index) => {
  element.ariaLabel = index ? `${label} ${index + 1}` : label;
});

addEventListener("load", () => {
  named(".md-search[role=dialog]", "Search");
  named(".md-code__nav", "Code");
  document.querySelectorAll("pre > code, .formula .line, .md-typeset__scrollwrap").forEach((element) => {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  });
});
