// The control API, with the token that was typed in. It lives as long as this tab does.

const KEY = "chatterline.token";

export const getToken = () => sessionStorage.getItem(KEY);
export const setToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The JSON of the answer, null without one. Throws ApiError; its status is 0 when nothing answered. */
export async function request(method, path, body) {
  const headers = { Authorization: `Bearer ${getToken()}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", signal: AbortSignal.timeout(10000),
    });
  } catch {
    throw new ApiError(0, "the server does not answer");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, explain(response, answer));
  return answer;
}

/** A WebSocket of the API. A browser cannot set its headers: the token goes as a subprotocol. */
export function openSocket(path) {
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url, ["chatterline", `chatterline.bearer.${getToken()}`]);
}

function explain(response, problem) {
  if (!problem || !problem.title) return `the server answers ${response.status}`;
  const errors = (problem.errors || []).map((error) => error.detail || error.message || error.msg).filter(Boolean);
  return [problem.detail || problem.title, ...errors].join("; ");
}
