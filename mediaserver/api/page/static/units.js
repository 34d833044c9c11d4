// How figures are written.

export const count = (value) => Math.round(value).toLocaleString("en");

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  return seconds < 10 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

/** 75 -> "1:15", 3675 -> "1:01:15" */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** "sip:alice@pbx.example:5060;transport=udp" -> "alice@pbx.example" */
export function party(uri) {
  const match = /^sips?:([^;?>]*)/i.exec(uri || "");
  return match ? match[1].replace(/:\d+$/, "") : uri || "unknown";
}

export function bytes(value) {
  return value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${(value / 1e6).toFixed(1)} MB`;
}
