() => {
  // Copies the command of the Sample tab.
  document.addEventListener("click", async ({target}) => {
    if (!(target instanceof HTMLButtonElement) || !target.closest(".command")) return;
    const code = target.parentElement.querySelector("code");
    getSelection().selectAllChildren(code); // without HTTPS, only this machine may use the clipboard
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(code.textContent);
      target.textContent = "Copied";
    }
  });

  // Paints the mask of the Edit tab: on a canvas of the image's own size, by pointer or keyboard.
  const canvasOf = (target) => (target instanceof HTMLCanvasElement && target.closest(".brush") ? target : null);
  const radius = (canvas) => {
    const field = document.querySelector("#brush-size input[type=number]");
    const percent = Number(field && field.value) || 10;
    return Math.max(0.5, Math.round((Math.max(canvas.width, canvas.height) * percent) / 200));
  };
  const fill = (canvas, box, erase) => {
    const context = canvas.getContext("2d");
    context.fillStyle = "#ff4fd8"; // seen on white and on skin; light, since the server reads lightness and opacity
    if (erase) context.clearRect(...box);
    else context.fillRect(...box);
    canvas.dataset.painted = "yes";
  };
  const paint = (canvas, x, y, erase) => {
    const r = radius(canvas), side = Math.max(1, Math.round(2 * r));
    fill(canvas, [Math.round(x - r), Math.round(y - r), side, side], erase);
  };
  const isErasing = () => document.querySelector("#erase input").checked;
  document.addEventListener("click", ({target}) => {
    const canvas = target.dataset?.fill && document.querySelector(".brush canvas");
    if (!canvas) return;
    const edges = target.dataset.fill.split(",").map((part, axis) => Math.round(part * (axis % 2 ? canvas.height : canvas.width)));
    fill(canvas, [edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]], isErasing());
  });
  const position = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * canvas.width) / box.width,
      ((event.clientY - box.top) * canvas.height) / box.height,
    ];
  };
  const stroke = (canvas, from, to, erase) => {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(0.5, radius(canvas) / 2)));
    for (let step = 0; step <= steps; step++) {
      const part = step / steps;
      paint(canvas, from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1]), erase);
    }
  };

  let drawing = null;
  document.addEventListener("pointerdown", (event) => {
    const canvas = canvasOf(event.target);
    if (!canvas) return;
    event.preventDefault();
    canvas.focus({preventScroll: true});
    canvas.setPointerCapture(event.pointerId);
    const at = position(canvas, event);
    drawing = {canvas, at, erase: event.button === 2 || event.shiftKey || isErasing()};
    stroke(canvas, at, at, drawing.erase);
  });
  document.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    const at = position(drawing.canvas, event);
    stroke(drawing.canvas, drawing.at, at, drawing.erase);
    drawing.at = at;
  });
  for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, () => { drawing = null; });
  document.addEventListener("contextmenu", (event) => { if (canvasOf(event.target)) event.preventDefault(); });

  const showCursor = (canvas) => {
    const brush = canvas.closest(".brush"), r = radius(canvas);
    let cursor = brush.querySelector(".cursor");
    if (!cursor) {
      cursor = document.createElement("div");
      cursor.className = "cursor";
      brush.append(cursor);
    }
    const [x, y] = [Number(canvas.dataset.x), Number(canvas.dataset.y)];
    cursor.style.left = `${(100 * (x - r)) / canvas.width}%`;
    cursor.style.top = `${(100 * (y - r)) / canvas.height}%`;
    cursor.style.width = `${(200 * r) / canvas.width}%`;
    cursor.style.height = `${(200 * r) / canvas.height}%`;
  };
  document.addEventListener("keydown", (event) => {
    const canvas = canvasOf(event.target);
    if (!canvas) return;
    const [x, y] = [Number(canvas.dataset.x ?? canvas.width / 2), Number(canvas.dataset.y ?? canvas.height / 2)];
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (move) {
      const length = Math.max(1, radius(canvas));
      canvas.dataset.x = Math.min(canvas.width, Math.max(0, x + length * move[0]));
      canvas.dataset.y = Math.min(canvas.height, Math.max(0, y + length * move[1]));
    } else if (event.key === " ") paint(canvas, x, y, isErasing());
    else if (event.key === "x" || event.key === "X") paint(canvas, x, y, true);
    else return;
    event.preventDefault();
    canvas.dataset.x ??= x;
    canvas.dataset.y ??= y;
    showCursor(canvas);
  });

  const clear = (canvas) => {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    delete canvas.dataset.painted;
  };
  // Gradio keeps the canvas when the image under it changes, with everything painted on it.
  new MutationObserver((changes) => {
    for (const {target} of changes) {
      const canvas = target.closest(".brush")?.querySelector("canvas");
      if (canvas) clear(canvas);
    }
  }).observe(document.body, {subtree: true, attributeFilter: ["src"]});

  // Scrolls as far as needed to show an element with its images, once they have their size.
  window.hditShow = async (selector) => {
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const element = document.querySelector(selector);
    await Promise.allSettled([...element.querySelectorAll("img")].map((image) => image.decode()));
    element.scrollIntoView({block: "nearest"});
  };
  window.hditClearMask = () => document.querySelectorAll(".brush canvas").forEach(clear);
  window.hditMask = () => {
    const canvas = document.querySelector(".brush canvas");
    return canvas && canvas.dataset.painted ? canvas.toDataURL("image/png") : "";
  };
}
