"use strict";

const byId = (id) => document.getElementById(id);
const panels = ["welcome", "trial", "end"].map(byId);
const buttons = [...document.querySelectorAll("#scale button")];
const KEPT = "participant"; // in this browser, so that a reload continues

let participant = "";
let trials = [];
let answers = {}; // number of a trial -> rating
let at = 0; // trials.length: the end
let seenAt = null; // when the images of this trial were seen; null while they load
let saving = false;

function show(panel) {
  for (const each of panels) each.hidden = each !== panel;
}

function say(panel, text) {
  panel.querySelector(".message").textContent = text;
}

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}

// Until this script runs, a submitted form would only load the page again, with the name in its address.
function askForName() {
  document.querySelector("fieldset").disabled = false;
  byId("name").focus();
}

async function begin(name) {
  document.querySelector("fieldset").disabled = true;
  say(byId("welcome"), "One moment …");
  const study = await post("participants", { participant: name });
  participant = name;
  localStorage.setItem(KEPT, name);
  trials = study.trials;
  answers = study.answers;
  const open = trials.findIndex((trial) => !(trial.number in answers));
  await go(open < 0 ? trials.length : open);
}

const address = (image) => `images/${image}`;

function load(img, image) {
  img.src = address(image);
  return img.decode();
}

async function go(to) {
  at = to;
  if (at === trials.length) {
    show(byId("end"));
    byId("done").focus();
    return;
  }
  const trial = trials[at];
  seenAt = null;
  byId("trial").classList.add("loading");
  show(byId("trial"));
  say(byId("trial"), "");
  byId("count").textContent = `${at + 1} of ${trials.length}`;
  document.querySelector("progress").value = Object.keys(answers).length / trials.length;
  byId("back").disabled = at === 0;
  byId("on").disabled = !(trial.number in answers);
  for (const button of buttons) button.setAttribute("aria-pressed", Number(button.value) === answers[trial.number]);
  try {
    await showImages(trial);
  } catch {
    if (trials[at] === trial) say(byId("trial"), "An image did not load. Is the study still being served? Reload this page to continue.");
    return;
  }
  if (trials[at] !== trial) return; // gone on meanwhile
  byId("trial").classList.remove("loading");
  seenAt = performance.now();
  for (const image of imagesOf(trials[at + 1])) new Image().src = address(image);
}

const imagesOf = (trial) => (trial ? [trial.image, ...trial.references] : []);

function showImages(trial) {
  const works = trial.references.map((_, i) => Object.assign(new Image(), { alt: `Work ${i + 1}` }));
  byId("works").className = ["", "one", "few", "", "few", "five"][works.length] ?? "";
  byId("works").replaceChildren(...works);
  return Promise.all([load(byId("image"), trial.image), ...works.map((img, i) => load(img, trial.references[i]))]);
}

async function rate(rating) {
  if (saving || seenAt === null) return;
  saving = true;
  const { number } = trials[at];
  const seconds = Math.round(performance.now() - seenAt) / 1000;
  for (const button of buttons) button.setAttribute("aria-pressed", Number(button.value) === rating);
  try {
    await post("answers", { participant, trial: number, rating, seconds });
    answers[number] = rating;
    await go(at + 1);
  } catch {
    say(byId("trial"), "This answer was not stored. Is the study still being served? Answer again to retry.");
  } finally {
    saving = false;
  }
}

const goBack = () => !saving && at > 0 && go(at - 1);
const goOn = () => !saving && at < trials.length && trials[at].number in answers && go(at + 1);

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await begin(byId("name").value.trim());
  } catch (error) {
    say(byId("welcome"), `It cannot begin: ${error.message}.`);
    askForName();
  }
});

for (const button of buttons) button.addEventListener("click", () => rate(Number(button.value)));
byId("back").addEventListener("click", goBack);
byId("again").addEventListener("click", goBack);
byId("on").addEventListener("click", goOn);
byId("done").addEventListener("click", () => {
  localStorage.removeItem(KEPT);
  location.reload();
});

document.addEventListener("keydown", (event) => {
  if (!byId("welcome").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") goBack();
  else if (event.key === "ArrowRight") goOn();
  else if (!byId("trial").hidden && "12345".includes(event.key)) rate(Number(event.key));
  else return;
  event.preventDefault();
});

const kept = localStorage.getItem(KEPT);
if (kept) {
  begin(kept).catch(() => {
    localStorage.removeItem(KEPT);
    say(byId("welcome"), "");
    askForName();
  });
} else askForName();
