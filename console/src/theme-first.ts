// Runs before the first paint, so that a chosen theme never flashes in the other one.
{
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem("twinspan.theme");
  } catch {
    // storage may be closed to us: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset["theme"] = chosen;
}
