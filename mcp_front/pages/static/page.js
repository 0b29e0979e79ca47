// What moves by itself: the parts of a run as they change, the list, and times in the reader's own zone. Everything else works without.
"use strict";

const HIDDEN_TAB = 5000; // milliseconds between two looks whether anybody looks
const LIST_EVERY = 10000;
const LONGEST_PAUSE = 30000;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function localTimes(within) {
  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || time.title) continue;
    time.title = time.textContent;
    time.textContent = shown.format(at);
  }
}

const typedInto = (part) =>
  part.contains(document.activeElement) && document.activeElement.matches("input, textarea")
    ? true
    : [...part.querySelectorAll("input:not([type=hidden]), textarea")].some((field) => field.value !== field.defaultValue || field.value !== "");

function news(text, href) {
  const note = document.getElementById("news");
  if (note === null || note.dataset.said === text) return;
  note.dataset.said = text;
  note.replaceChildren(text + " ");
  if (href) {
    const link = document.createElement("a");
    link.href = href;
    link.textContent = "Open it again";
    note.append(link);
  }
  note.hidden = text === "";
}

// Forms that were sent once are not sent again by a second click.
document.addEventListener("submit", (event) => {
  for (const button of event.target.querySelectorAll("button[type=submit]")) {
    if (event.target.method === "post") setTimeout(() => (button.disabled = true));
  }
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

// Who listens is told of a change only where the place that tells it stays the same element.
function retold(part, fresh) {
  const [place, told] = [part.querySelector("[aria-live]"), fresh.querySelector("[aria-live]")];
  for (const { name, value } of [...fresh.attributes]) part.setAttribute(name, value);
  if (place.innerHTML !== told.innerHTML) place.replaceChildren(...told.childNodes);
  while (place.nextSibling) place.nextSibling.remove();
  while (told.nextSibling) part.append(told.nextSibling);
  localTimes(part);
}

// The log stays where it was scrolled to, what the reader unfolded stays unfolded, and the focus stays on what it was on.
function replaced(part, fresh) {
  if (part.querySelector("[aria-live]") && fresh.querySelector("[aria-live]")) return retold(part, fresh);
  const scroll = part.querySelector("pre")?.scrollTop ?? 0;
  const open = [...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  part.replaceWith(fresh);
  for (const summary of fresh.querySelectorAll("details > summary")) {
    if (open.includes(summary.textContent)) summary.parentElement.open = true;
  }
  const pre = fresh.querySelector("pre");
  if (pre) pre.scrollTop = scroll;
  localTimes(fresh);
  if (focused) {
    const same = [...fresh.querySelectorAll(focused.tagName)].find((element) => element.textContent === focused.textContent);
    same?.focus({ preventScroll: true });
  }
}

// True as long as the page can go on as it is.
function moved(fresh, address) {
  const before = { ...document.getElementById("standing").dataset };
  const now = fresh.querySelector("#standing");
  if (now === null) return false;
  const decide = document.getElementById("decide");
  const busy = typedInto(decide);
  const other = before.digest !== now.dataset.digest || before.plan !== now.dataset.plan;
  if (other && !busy) {
    location.reload();
    return false;
  }
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.querySelector("#" + CSS.escape(part.id));
    if (next === null || (part === decide && busy)) continue;
    replaced(part, next);
  }
  if (busy && (other || before.state !== now.dataset.state)) {
    for (const button of decide.querySelectorAll("[data-form] button")) button.disabled = true;
    news(other ? "There is another plan now. What you typed is still here." : "The run has moved on. What you typed is still here.", address);
  }
  document.title = `${now.dataset.title} · Countersign`;
  return true;
}

async function follow(address) {
  let wait = 1000;
  for (;;) {
    const standing = document.getElementById("standing");
    if (standing === null || "ended" in standing.dataset) return;
    if (document.hidden) {
      await pause(HIDDEN_TAB);
      continue;
    }
    try {
      const log = new URLSearchParams(location.search).get("log");
      const query = new URLSearchParams({ after: standing.dataset.cursor, ...(log ? { log } : {}) });
      const answer = await fetch(`${address}/live?${query}`, { redirect: "error", cache: "no-store" });
      if (answer.status === 401) {
        news("You are signed out. What you typed is still here; sign in again in another tab.", address);
        return;
      }
      if (answer.status === 200) {
        const parts = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!moved(parts, address)) return;
      } else if (answer.status !== 204) {
        throw new Error(String(answer.status));
      }
      if (wait > 1000) news("", null);
      wait = 1000;
    } catch {
      if (wait > 1000) news("Countersign does not answer; this page tries again by itself.", null);
      await pause(wait);
      wait = Math.min(2 * wait, LONGEST_PAUSE);
    }
  }
}

async function refresh(list) {
  for (;;) {
    await pause(LIST_EVERY);
    if (document.hidden || list.contains(document.activeElement)) continue;
    try {
      const answer = await fetch(`/runs/live${location.search}`, { redirect: "error", cache: "no-store" });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (answer.status !== 200) continue;
      const parts = new DOMParser().parseFromString(await answer.text(), "text/html");
      list.replaceChildren(...parts.body.childNodes);
      localTimes(list);
    } catch {
      // The next look may go better.
    }
  }
}

localTimes(document);
document.getElementById("problem")?.focus();
const run = document.querySelector("[data-run]");
const list = document.querySelector("[data-list]");
if (run) follow(run.dataset.run);
if (list) refresh(list);
