"use strict";

/* Search without a server: a browser starts no worker from a file, so that what a worker would run is run in a frame. */

const FRAME = `<script>
  postMessage = (data) => frameElement.worker.dispatchEvent(new MessageEvent("message", { data }));
  importScripts = (...sources) => sources.reduce((before, src) => before.then(() => new Promise((loaded) => {
    document.head.append(Object.assign(document.createElement("script"), { src, onload: loaded }));
  })), Promise.resolve());
</script>`;

class FrameWorker extends EventTarget {
  constructor(source) {
    super();
    this.frame = Object.assign(document.createElement("iframe"), {
      hidden: true, title: "Search", srcdoc: `${FRAME}<script src="${source}"></script>`,
    });
    this.frame.worker = this;
    this.loaded = new Promise((loaded) => this.frame.addEventListener("load", loaded, { once: true }));
    document.documentElement.append(this.frame);
  }

  async postMessage(data) {
    await this.loaded;
    const frame = this.frame.contentWindow;
    frame.dispatchEvent(new frame.MessageEvent("message", { data }));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") Worker = FrameWorker;
