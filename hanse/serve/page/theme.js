// Runs before the page is drawn, so that a chosen appearance does not flash.
try {
  const { theme, language } = JSON.parse(localStorage.getItem("hanse.settings") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  if (typeof language === "string" && language) document.documentElement.lang = language;
} catch {
  // A browser without storage, or settings that something else wrote: the defaults hold.
}
