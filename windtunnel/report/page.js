// Sort and search the table of runs. The page is complete without it.
const runsTable = () => {
  const LIMIT = 500;  // rows drawn at once: a browser lays out 10,000 rows in seconds, 500 at once
  const table = document.getElementById("runs-table");
  if (table === null) return;
  const search = document.getElementById("runs-search");
  const shown = document.getElementById("runs-shown");
  const all = document.getElementById("runs-all");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let order = rows;
  let limit = LIMIT;

  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = order.filter((row) => words.every((word) => texts.get(row).includes(word)));
    const drawn = document.createDocumentFragment();
    for (const row of found.slice(0, limit)) drawn.append(row);
    body.replaceChildren(drawn);
    const first = found.length > limit ? `, the first ${limit} shown` : "";
    shown.textContent = `${found.length} of ${rows.length} runs${first}`;
    all.hidden = found.length <= limit;
  };

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "missing") return null;
    return isFinite(text) ? Number(text) : text;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true });
  const sort = (header, column) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = order.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => a === null || b === null
      ? (a === null) - (b === null)  // missing last, whichever way
      : (down ? compare(b, a) : compare(a, b)));
    order = keyed.map(([, row]) => row);
    draw();
  };

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(header, column));
  });
  search.addEventListener("input", draw);
  all.addEventListener("click", () => { limit = Infinity; draw(); });
  document.getElementById("runs-tools").hidden = false;
  draw();
};
runsTable();
