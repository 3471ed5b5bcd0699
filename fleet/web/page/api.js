const KEY = "edge-fleet-token";
let token = sessionStorage.getItem(KEY) || "";
let role = "";

export const hasToken = () => token !== "";

export function setToken(given) {
  token = given.trim();
  role = "";
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export async function call(path, body) {
  const headers = { accept: "application/json", authorization: `Bearer ${token}` };
  if (body) headers["content-type"] = "application/json";
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (response.ok) return answer;
  const error = new Error((answer.error && answer.error.message) || `status ${response.status}`);
  error.status = response.status;
  throw error;
}

export async function whoAmI() {
  const me = await call("/v1/whoami");
  role = me.role;
  return me;
}

// Only what is offered; the control host decides what is done.
export const mayOperate = () => role === "operator" || role === "admin";

export function query(path, values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}
