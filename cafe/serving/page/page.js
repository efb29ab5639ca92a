"use strict";
// Names of classes and files come from strangers: all text is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
let about = { most_images: 32, most_megabytes: 32 };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, wrong = false) {
  $("said").textContent = text;
  $("said").classList.toggle("wrong", wrong);
}

function percent(share) {
  return (100 * share).toFixed(1) + " %";
}

// A <meter> is drawn differently by every browser, and by some with its bar beside its track.
function meter(share, className, label) {
  const made = element("div", `meter ${className}`.trim());
  made.setAttribute("role", "meter");
  made.setAttribute("aria-valuemin", 0);
  made.setAttribute("aria-valuemax", 1);
  made.setAttribute("aria-valuenow", share);
  made.setAttribute("aria-label", label);
  const bar = element("i");
  bar.style.width = `${100 * share}%`;
  made.append(bar);
  return made;
}

function bars(image) {
  const list = element("dl", "bars");
  const text = new Map((image.zero_shot || []).map((each) => [each.class, each.probability]));
  for (const each of image.predictions) {
    list.append(element("dt", "", each.class));
    const both = element("dd");
    both.append(meter(each.probability, "", `${each.class}: ${percent(each.probability)}`));
    if (text.has(each.class)) {
      both.append(meter(text.get(each.class), "text", `by its name alone: ${percent(text.get(each.class))}`));
    }
    list.append(both, element("dd", "share", percent(each.probability)));
  }
  return list;
}

function key(image) {
  const made = element("p", "key");
  const adapted = element("span", "", "this classifier");
  adapted.prepend(element("i"));
  made.append(adapted);
  const best = image.zero_shot.reduce((a, b) => (b.probability > a.probability ? b : a));
  const text = element("span", "", `by names alone (zero-shot): ${best.class}, ${percent(best.probability)}`);
  text.prepend(element("i", "text"));
  made.append(text);
  return made;
}

function neighbours(image) {
  const row = element("div", "near");
  for (const each of image.nearest) {
    const figure = element("figure");
    if (each.thumbnail) {
      const picture = element("img");
      picture.src = each.thumbnail;
      picture.alt = `training image of ${each.class}`;
      figure.append(picture);
    } else {
      figure.append(element("span", "none"));
    }
    figure.append(element("figcaption", "", `${each.class} ${each.similarity.toFixed(2)}`));
    row.append(figure);
  }
  return row;
}

function card(file, image) {
  const article = element("article");
  const figure = element("figure");
  const picture = element("img");
  picture.alt = "";
  picture.src = URL.createObjectURL(file);
  picture.addEventListener("error", () => picture.remove());
  figure.append(picture, element("figcaption", "", file.name));
  const side = element("div");
  if (image.reason) {
    side.append(element("h2", "", "Not an image that can be read"), element("p", "unknown", image.reason));
  } else {
    side.append(element("h2", "", image.predictions[0].class));
    if (image.unknown) side.append(element("p", "unknown", "looks like none of the classes"));
    if (image.zero_shot) side.append(key(image));
    side.append(bars(image));
    if (image.nearest && image.nearest.length) {
      side.append(element("p", "near-title", "Nearest training images"), neighbours(image));
    }
  }
  article.append(figure, side);
  return article;
}

// Browsers give the names of what they drop or pick without a folder; a server may refuse others.
function bareName(file) {
  return (file.name || "pasted image").replace(/[\\/\0]/g, "_");
}

async function classify(files) {
  files = Array.from(files);
  if (!files.length) return;
  let wrong = "";
  for (let start = 0; start < files.length; start += about.most_images) {
    const some = files.slice(start, start + about.most_images);
    say(`Looking at ${some.length === 1 ? "one image" : some.length + " images"} …`);
    const body = new FormData();
    for (const file of some) body.append("files", file, bareName(file));
    let answer, document_;
    try {
      answer = await fetch("/predict?top=5&zero_shot=true&nearest=5", { method: "POST", body });
      document_ = await answer.json();
    } catch (error) {
      say("The server does not answer.", true);
      return;
    }
    if (answer.ok) {
      document_.images.forEach((image, i) => $("results").prepend(card(some[i], image)));
    } else {
      wrong = document_.error || `refused (${answer.status})`;
      if (some.length === 1) $("results").prepend(card(some[0], { reason: wrong }));
    }
  }
  $("tools").hidden = !$("results").children.length;
  say(wrong || `${$("results").children.length} shown, the newest first.`, Boolean(wrong));
}

function clear() {
  for (const picture of $("results").querySelectorAll("img")) URL.revokeObjectURL(picture.src);
  $("results").replaceChildren();
  $("tools").hidden = true;
  say("");
  $("pick").focus();
}

$("pick").addEventListener("change", (event) => {
  classify(event.target.files).finally(() => { event.target.value = ""; });
});
$("clear").addEventListener("click", clear);
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) addEventListener(name, () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); classify(event.dataTransfer.files); });
addEventListener("paste", (event) => classify(event.clipboardData.files));
addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });

fetch("/model").then((answer) => answer.json()).then((model) => {
  about = model;
  document.title = model.name;
  $("name").textContent = model.name;
  const shown = model.class_names.slice(0, 8).join(", ") + (model.class_names.length > 8 ? ", …" : "");
  const tested = model.accuracy === null ? "not tested" :
    `${percent(model.accuracy)} right on ${model.n_test} test images`;
  $("about").textContent = `${model.class_names.length} classes: ${shown} · ${tested}`;
});
