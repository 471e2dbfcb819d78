/** The demo's own back end, which sends as the app "demo". A real page would ask its own server for all of this. */

async function post(path, body) {
  const response = await fetch(`/demo/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (response.status === 204) return undefined;
  const answer = await response.json();
  if (response.ok) return answer;
  const errors = answer.errors?.map(({ pointer, detail }) => `${pointer} ${detail}`);
  throw new Error(errors?.join("; ") ?? answer.detail);
}

export const fetchToken = async (user) => (await post("token", { user })).token;
export const send = (...notifications) => post("send", { notifications });
export const cancel = (id) => post("cancel", { id });
export const subscribe = (topic, ...users) => post("subscribe", { topic, users });
export const follow = async (id) => (await (await fetch(`/demo/follow/${id}`)).json()).counts;

/** A demo user of this browser, another in each browser. `fresh` makes a new one. */
export function chooseUser(name, { fresh = false } = {}) {
  const key = `demo.${name}`;
  let user = fresh ? null : localStorage.getItem(key);
  if (!user) {
    const letters = Array.from(crypto.getRandomValues(new Uint8Array(6)), (number) => (number % 36).toString(36));
    user = `demo-${name}-${letters.join("")}`;
    localStorage.setItem(key, user);
  }
  return user;
}
