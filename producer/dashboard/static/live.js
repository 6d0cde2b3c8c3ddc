// What a page does beside being read: it keeps itself up to date, shows times as its reader wants them, and takes keys.
// Without this script every page is whole; reloading shows the latest.
"use strict";
(() => {
  const root = document.documentElement;
  const say = document.querySelector("[data-live-state]");
  const kept = {
    get: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
    set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* It holds for this page. */ } },
  };

  // Times: how long ago, here, or in UTC.
  const MODES = ["ago", "local", "utc"];
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  let mode = MODES.includes(kept.get("times")) ? kept.get("times") : "ago";
  const relative = (at) => {
    const seconds = (at - Date.now()) / 1000;
    for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]])
      if (Math.abs(seconds) >= size) return ago.format(Math.trunc(seconds / size), unit);
    return ago.format(Math.trunc(seconds), "second");
  };
  const isSelected = (element) => {
    const selection = getSelection();
    return !selection.isCollapsed && selection.containsNode(element, true);
  };
  const showTimes = (within) => {
    for (const each of within.querySelectorAll("time[datetime]")) {
      const at = new Date(each.dateTime);
      if (isNaN(at) || isSelected(each)) continue;
      const utc = (each.dataset.utc ??= each.textContent);
      each.title = `${local.format(at)} ${zone}\n${utc}`;
      const text = mode === "utc" ? utc : mode === "local" || "exact" in each.dataset ? local.format(at) : relative(at);
      if (each.textContent !== text) each.textContent = text;
    }
  };

  // Live parts: the same page is asked for again, and what changed in it is put in the place of what was there.
  const LONGEST = 30000;
  const shortest = 1000 * root.dataset.liveEvery;
  const served = new Map();
  const regions = () => document.querySelectorAll("[data-live][id]");
  let etag = `"${root.dataset.etag}"`;
  let wait = shortest;
  let timer = 0;
  let isAsking = false;
  let isOn = kept.get("live") !== "off";
  let lostAt = null;

  const isHeld = (region) =>
    region.contains(document.activeElement) || isSelected(region) || region.querySelector("details.ask[open]");
  const take = (page) => {
    let isAnyHeld = false;
    for (const region of regions()) {
      const fresh = page.getElementById(region.id);
      if (!fresh || fresh.innerHTML === served.get(region.id)) continue;
      if (isHeld(region)) { isAnyHeld = true; continue; }
      served.set(region.id, fresh.innerHTML);
      const open = [...region.querySelectorAll("details[open][data-keep]")].map((each) => each.dataset.keep);
      region.replaceChildren(...fresh.childNodes);
      for (const each of region.querySelectorAll("details[data-keep]"))
        if (open.includes(each.dataset.keep)) each.open = true;
      prepare(region);
    }
    document.title = page.title;
    const icon = page.querySelector("link[rel=icon]");
    if (icon) document.querySelector("link[rel=icon]").href = icon.getAttribute("href");
    return isAnyHeld;
  };
  const tell = (text) => { if (say && say.textContent !== text) say.textContent = text; };
  const schedule = () => {
    clearTimeout(timer);
    if (isOn && !document.hidden && regions().length) timer = setTimeout(ask, wait);
  };
  const ask = async () => {
    if (isAsking || !isOn || document.hidden) return;
    isAsking = true;
    try {
      const answer = await fetch(location.href, {
        headers: { "If-None-Match": etag }, cache: "no-store", redirect: "manual",
      });
      if (answer.type === "opaqueredirect" || answer.status === 401) { isOn = false; tell("Signed out: reload."); return; }
      if (answer.status === 404) { isOn = false; tell("It is gone: reload."); return; }
      if (answer.status !== 304 && !answer.ok) throw new Error(answer.status);
      lostAt = null;
      wait = answer.status === 304 ? Math.min(wait * 2, LONGEST) : shortest;
      let isAnyHeld = false;
      if (answer.status === 200) {
        isAnyHeld = take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        etag = isAnyHeld ? '""' : answer.headers.get("ETag");
      }
      tell(isAnyHeld ? "Live; held where you read." : "Live.");
    } catch {
      lostAt ??= new Date();
      wait = Math.min(wait * 2, LONGEST);
      tell(`No answer since ${lostAt.toLocaleTimeString()}.`);
    } finally {
      isAsking = false;
      schedule();
    }
  };
  const setLive = (on) => {
    isOn = on;
    kept.set("live", on ? "on" : "off");
    wait = shortest;
    tell(on ? "Live." : "Live updates are off (r).");
    if (on) ask(); else clearTimeout(timer);
  };

  // Copying works without TLS, too.
  const copy = async (button) => {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
  };
  const prepare = (within) => {
    showTimes(within);
    for (const each of within.querySelectorAll("[data-copy]")) each.hidden = false;
  };

  let isGo = false;
  const move = (step) => {
    const rows = [...document.querySelectorAll("[data-rows] tbody tr:has(a)")];
    if (!rows.length) return;
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    rows[Math.min(Math.max(here + step, 0), rows.length - 1)].querySelector("a").focus();
  };
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const target = isGo && document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    isGo = event.key === "g" && !isGo;
    if (target) { location.href = target.href; return; }
    switch (event.key) {
      case "/": document.querySelector("[data-search]")?.focus(); event.preventDefault(); break;
      case "?": document.querySelector('[data-go="?"]')?.click(); break;
      case "j": move(1); break;
      case "k": move(-1); break;
      case "r": if (regions().length) setLive(!isOn); break;
      case "Escape": document.activeElement?.blur(); break;
    }
  };

  for (const region of regions()) served.set(region.id, region.innerHTML);
  prepare(document);
  setInterval(() => { if (!document.hidden) showTimes(document); }, 10000);
  document.addEventListener("keydown", press);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("visibilitychange", () => {
    wait = shortest;
    if (document.hidden) clearTimeout(timer); else ask();
  });
  if (say) {
    const choice = document.createElement("button");
    choice.type = "button";
    choice.className = "plain";
    const name = () => { choice.textContent = { ago: "Times: ago", local: `Times: ${zone}`, utc: "Times: UTC" }[mode]; };
    choice.addEventListener("click", () => {
      mode = MODES[(MODES.indexOf(mode) + 1) % MODES.length];
      kept.set("times", mode);
      name();
      showTimes(document);
    });
    name();
    say.after(choice);
    if (regions().length) { tell(isOn ? "Live." : "Live updates are off (r)."); schedule(); } else tell("");
  }
})();
