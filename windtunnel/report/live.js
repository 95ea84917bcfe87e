// Ask for this page again when the server says, and show what changed without losing the reader's place.
(() => {
  const EVERY = 3;  // seconds, where the server does not say
  const note = document.getElementById("live-note");
  let seen = null, last = new Date(), busy = false, every = EVERY, next = 0;

  const kept = () => {
    const search = document.getElementById("runs-search");
    const table = document.getElementById("runs-table");
    const headers = table ? [...table.tHead.rows[0].cells] : [];
    const column = headers.findIndex((header) => header.hasAttribute("aria-sort"));
    return {
      text: search ? search.value : "", typing: search !== null && document.activeElement === search,
      column, down: column >= 0 && headers[column].getAttribute("aria-sort") === "descending",
      key: document.activeElement?.dataset.key, top: window.scrollY, inside: table ? table.parentElement.scrollTop : 0,
    };
  };
  const restore = (was) => {
    const search = document.getElementById("runs-search");
    const table = document.getElementById("runs-table");
    if (table && was.column >= 0) {
      const button = table.tHead.rows[0].cells[was.column].querySelector("button");
      for (let click = 0; click < (was.down ? 2 : 1); click += 1) button.click();
    }
    if (search && was.text) { search.value = was.text; search.dispatchEvent(new Event("input")); }
    if (search && was.typing) search.focus({ preventScroll: true });
    if (was.key) [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === was.key)?.focus({ preventScroll: true });
    if (table) table.parentElement.scrollTop = was.inside;
    window.scrollTo({ top: was.top, behavior: "instant" });
  };
  const show = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const was = kept();
    for (const name of ["main", "header"]) {
      const now = page.querySelector(name), then = document.querySelector(name);
      if (now && then) then.replaceChildren(...now.childNodes);
    }
    document.title = page.title;
    runsTable();
    figures();
    restore(was);
  };
  const say = (text) => {
    const place = document.getElementById("live-note") ?? note;
    if (place && place.textContent !== text) place.textContent = text;
  };
  const look = async () => {
    clearTimeout(next);
    if (document.hidden || busy) return;
    busy = true;
    try {
      const answer = await fetch(location.pathname, { cache: "no-cache" });
      if (!answer.ok) throw new Error(String(answer.status));
      every = Number(answer.headers.get("x-look-again")) || EVERY;
      const tag = answer.headers.get("etag");
      if (tag !== seen) {
        if (seen !== null) last = new Date();
        seen = tag;
        show(await answer.text());
      }
      say(`Live: looks for news every ${Math.round(every)} s; last change ${last.toLocaleTimeString()}.`);
    } catch {
      every = EVERY;
      say(`Not live: the server does not answer. This is from ${last.toLocaleTimeString()}.`);
    }
    busy = false;
    next = setTimeout(look, 1000 * (every + Math.random()));  // readers come one after another
  };
  document.addEventListener("visibilitychange", look);
  look();
})();
