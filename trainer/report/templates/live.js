(async () => {
  const live = document.getElementById("live"), shown = new Map();
  for (const section of document.querySelectorAll("section")) shown.set(section.id, section.outerHTML);
  const isSelected = (node) => {
    const selection = getSelection();
    return selection.rangeCount > 0 && !selection.isCollapsed && selection.getRangeAt(0).intersectsNode(node);
  };
  let tag = "";
  for (;;) {
    await new Promise((done) => setTimeout(done, 2000));
    try {
      const answer = await fetch("data", { headers: { "If-None-Match": tag }, cache: "no-store" });
      if (answer.status !== 200 && answer.status !== 304) throw new Error(answer.statusText);
      live.textContent = "live";
      live.className = "";
      if (answer.status === 304) continue;
      let whole = true;
      for (const fresh of new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll("section")) {
        const old = document.getElementById(fresh.id), html = fresh.outerHTML;
        if (shown.get(fresh.id) === html) continue;
        if (isSelected(old)) { whole = false; continue; }
        shown.set(fresh.id, html);
        for (const details of old.querySelectorAll("details")) {
          const same = fresh.querySelector("#" + details.id);
          if (same) same.open = details.open;
        }
        old.replaceWith(fresh);
      }
      if (whole) tag = answer.headers.get("ETag");
    } catch {
      live.textContent = "The trainer does not answer any more: it has ended or cannot be reached. This is what it last said.";
      live.className = "gone";
    }
  }
})();
