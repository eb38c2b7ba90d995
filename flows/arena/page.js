"use strict";
// A vote is kept in the browser's storage until the server has said that it is stored.
const WORDS = {
  instruction: "Which one does what was asked?",
  consistency: "Which one keeps the rest as it was?",
  quality: "Which one looks better?",
};
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", s: "skip", S: "skip" };
const PENDING = "kontext-arena-pending", NAME = "kontext-arena-name";
const at = id => document.getElementById(id);
const wait = ms => new Promise(done => setTimeout(done, ms));

let rater = localStorage.getItem(NAME) || "";
let task = null, given = {}, began = 0, busy = false;

function show(id) {
  for (const each of ["start", "ask", "over"]) at(each).hidden = each !== id;
  at("foot").hidden = id === "start";
}

function work(now) {
  busy = now;
  at("ask").ariaBusy = String(now);
}

function say(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

// The server's answer. Until there is one it is asked again: it may be starting anew.
async function call(path, options) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    try {
      const answer = await fetch(path, options);
      if (answer.status < 500) {
        say("");
        return { status: answer.status, body: await answer.json() };
      }
      say((await answer.json()).error + " Trying again.");
    } catch {
      say("The server does not answer. Your vote is kept here and sent when it does.");
    }
    await wait(pause);
  }
}

async function send(vote) {
  localStorage.setItem(PENDING, JSON.stringify(vote));
  const headers = { "content-type": "application/json" };
  const found = await call("api/vote", { method: "POST", headers, body: JSON.stringify(vote) });
  localStorage.removeItem(PENDING);
  return found;
}

function picture(id, name) {
  const image = at(id);
  image.src = `picture/${encodeURIComponent(rater)}/${task.task}/${name}.png`;
  return image.decode().then(() => { image.className = image.naturalWidth <= 128 ? "small" : ""; });
}

async function ask() {
  work(true);
  const found = await call(`api/next?rater=${encodeURIComponent(rater)}`);
  if (found.status !== 200) {
    say(found.body.error);
    leave();
    return;
  }
  rater = found.body.rater;
  at("who").textContent = `${rater}, ${found.body.done} answered`;
  if (found.body.excluded) say(`Your votes are kept but not counted: ${found.body.excluded}.`);
  if (found.body.task === null) {
    show("over");
    return;
  }
  task = found.body;
  given = {};
  at("instruction").textContent = task.instruction;
  at("steps").replaceChildren(...task.questions.map(() => document.createElement("li")));
  try {
    await Promise.all([picture("context", "context"), picture("left", "left"), picture("right", "right")]);
  } catch {
    say("A picture could not be loaded: reload the page.");
  }
  show("ask");
  began = performance.now();
  work(false);
  turn();
}

function turn() {
  const number = Object.keys(given).length;
  at("words").textContent = WORDS[task.questions[number]];
  at("back").disabled = number === 0;
  [...at("steps").children].forEach((step, i) => {
    step.className = i < number ? "done" : i === number ? "now" : "";
  });
}

async function answer(value) {
  if (busy || at("ask").hidden) return;
  given[task.questions[Object.keys(given).length]] = value;
  if (Object.keys(given).length < task.questions.length) return turn();
  work(true);
  const seconds = Math.min(86400, (performance.now() - began) / 1000);
  const found = await send({ rater, task: task.task, answers: given, seconds });
  await ask();
  if (found.status !== 200) say(found.body.error);
}

function back() {
  const last = task && Object.keys(given).pop();
  if (!busy && last) {
    delete given[last];
    turn();
  }
}

function leave() {
  localStorage.removeItem(NAME);
  rater = "";
  show("start");
  at("name").focus();
}

document.addEventListener("click", event => {
  const button = event.target.closest("[data-answer]");
  if (button) answer(button.dataset.answer);
});
document.addEventListener("keydown", event => {
  if (at("ask").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (KEYS[event.key]) answer(KEYS[event.key]);
  else if (event.key === "Backspace") back();
  else return;
  event.preventDefault();
});
at("back").onclick = back;
at("leave").onclick = leave;
at("start").onsubmit = event => {
  event.preventDefault();
  rater = at("name").value;
  localStorage.setItem(NAME, rater);
  ask();
};

(async () => {
  const pending = localStorage.getItem(PENDING);
  if (pending) await send(JSON.parse(pending));
  rater ? ask() : leave();
})();
