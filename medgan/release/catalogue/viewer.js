"use strict";
// The version page: status of today, copying, filters, and the enlarged view with window and level.
// Pixels come live from images.zarr where the browser may read it (a web server, S3); from a file they
// come from the preview sheet, and window and level act on its 8 bits.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Status is the registry's word of today; the page itself never changes.
  const { name, version } = document.body.dataset;
  const entry = window.medganStatus && window.medganStatus[name];
  const now = entry && entry.versions[version];
  if (now) {
    const chip = $("#status"), banner = $("#banner");
    const promoted = Object.keys(entry.channels ?? {}).filter((key) => key !== "latest" && entry.channels[key] === version);
    chip.textContent = [now.status, ...promoted].join(" · ");
    chip.classList.add(now.status);
    chip.hidden = false;
    if (now.status === "withdrawn") {
      banner.textContent = `Withdrawn: ${now.reason}. Do not use this version.`;
      banner.classList.add("withdrawn");
      banner.hidden = false;
    } else if (now.status === "pending") {
      banner.textContent = "This version waits for its data-protection approver's signature.";
      banner.hidden = false;
    } else if (entry.latest && entry.latest !== version) {
      banner.append("A newer version exists: ");
      const link = document.createElement("a");
      link.href = `../${encodeURIComponent(entry.latest)}/index.html`;
      link.textContent = `${name}@${entry.latest}`;
      banner.append(link);
      banner.hidden = false;
    }
  }
  if (location.protocol.startsWith("http")) {
    const registry = new URL("../../", location.href).href.replace(/\/$/, "");
    all("[data-registry]").forEach((place) => { place.textContent = registry; });
  }

  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const text = $("code", button.parentElement).textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const range = document.createRange();
        range.selectNodeContents($("code", button.parentElement));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // Filters
  const tiles = all(".tile");
  const selects = all("[data-filter]");
  const label = (tile) => facts.labels[tile.dataset.i];
  const filter = () => {
    const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.filter, select.value]);
    let shown = 0;
    for (const tile of tiles) {
      const fits = wanted.every(([column, value]) => String(label(tile)[column]) === value);
      tile.classList.toggle("out", !fits);
      tile.tabIndex = fits ? 0 : -1;
      tile.setAttribute("aria-hidden", String(!fits));
      shown += fits;
    }
    $("#shown").textContent = wanted.length ? `${shown} of ${tiles.length} shown` : "";
  };
  selects.forEach((select) => select.addEventListener("change", filter));

  // Enlarged view
  const dialog = $("#zoom"), canvas = $("canvas", dialog), context = canvas.getContext("2d");
  const level = $("#level"), width = $("#window");
  const sheets = new Map();
  let current = null, drawing = 0, live = null;

  const sheetOf = (tile) => {
    const file = tile.parentElement.dataset.sheet;
    if (!sheets.has(file)) {
      sheets.set(file, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = reject;
        image.src = file;
      }));
    }
    return sheets.get(file);
  };

  const openArray = () => {
    if (!location.protocol.startsWith("http")) return Promise.reject(new Error("opened from a file"));
    live ??= (async () => {
      const { openImages } = await import(new URL("zarrita.js", location.href).href);
      return openImages(new URL("images.zarr/images", location.href).href);
    })();
    return live;
  };

  const readLive = async (index) => (await openArray())(index);

  const [low, high] = facts.range;
  const show = (values, h, w) => {
    const picture = context.createImageData(w, h);
    const from = level.value - width.value / 2;
    for (let i = 0; i < values.length; i += 1) {
      const grey = (((values[i] - low) / (high - low)) - from) / width.value * 255;
      picture.data[4 * i] = picture.data[4 * i + 1] = picture.data[4 * i + 2] = grey;
      picture.data[4 * i + 3] = 255;
    }
    const small = new OffscreenCanvas(w, h);
    small.getContext("2d").putImageData(picture, 0, 0);
    context.filter = "none";
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  };

  const showSheet = (image, tile) => {
    const lines = Number(tile.parentElement.dataset.lines);
    const at = Number(tile.dataset.t), w = image.naturalWidth / 8, h = image.naturalHeight / lines;
    const c = 2 * level.value / width.value, b = 1 / Math.max(2 * level.value, 0.02);
    context.filter = `brightness(${b}) contrast(${c})`;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (at % 8) * w, Math.floor(at / 8) * h, w, h, 0, 0, canvas.width, canvas.height);
  };

  const draw = async () => {
    const tile = current, mine = ++drawing;
    const physical = (share) => ((low + share * (high - low)) * facts.slope + facts.intercept);
    const write = (input, value) => { $("output", input.parentElement).textContent = Number(value.toPrecision(4)); };
    write(level, physical(Number(level.value)));
    write(width, Number(width.value) * (high - low) * facts.slope);
    if (tile.pixels) { show(tile.pixels, ...facts.size); return; }
    const sheet = await sheetOf(tile);
    if (mine === drawing && !tile.pixels) showSheet(sheet, tile);
    try {
      tile.pixels = await readLive(Number(tile.dataset.i));
    } catch (problem) {
      const damaged = location.protocol.startsWith("http");
      const why = problem.cause ? problem.cause.message : problem.message;
      tile.failed = damaged ? `Preview; the stored pixels could not be read: ${why}` : "Preview, 8 bits";
    }
    if (tile !== current) return;
    $("#source").textContent = tile.pixels ? "Stored pixels, read live and checked" : tile.failed;
    if (tile.pixels) show(tile.pixels, ...facts.size);
  };

  const open = (tile) => {
    current = tile;
    const about = label(tile);
    $("#zoom-title").textContent = `Image ${tile.dataset.i} · ${about.class}`;
    $("#zoom-about").textContent = Object.entries(about).filter(([key]) => key !== "class")
      .map(([key, value]) => `${key.replace("_", " ")} ${value}`).join(" · ");
    $("#source").textContent = "";
    if (!dialog.open) dialog.showModal();
    draw();
  };

  const move = (step) => {
    const seen = tiles.filter((tile) => !tile.classList.contains("out"));
    const at = seen.indexOf(current);
    if (seen.length) open(seen[(at + step + seen.length) % seen.length]);
  };

  const reset = () => { level.value = 0.5; width.value = 1; draw(); };
  tiles.forEach((tile) => tile.addEventListener("click", () => open(tile)));
  [level, width].forEach((input) => input.addEventListener("input", draw));
  $("[data-reset]", dialog).addEventListener("click", reset);
  $("[data-close]", dialog).addEventListener("click", () => dialog.close());
  all("[data-move]", dialog).forEach((button) => button.addEventListener("click", () => move(Number(button.dataset.move))));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => current && current.focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    if (event.key === "ArrowRight") move(1);
    if (event.key === "ArrowLeft") move(-1);
  });
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    start = { x: event.clientX, y: event.clientY, level: Number(level.value), width: Number(width.value) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start || !event.buttons) return;
    width.value = start.width + (event.clientX - start.x) / 300;
    level.value = start.level + (event.clientY - start.y) / 300;
    draw();
  });
  canvas.addEventListener("pointerup", () => { start = null; });

  // Arrow keys walk the grid
  for (const sheet of all(".sheet")) {
    sheet.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8 }[event.key];
      const inside = all(".tile", sheet), at = inside.indexOf(event.target);
      if (!step || at < 0) return;
      event.preventDefault();
      const next = inside[at + step];
      if (next) next.focus();
    });
  }
})();
