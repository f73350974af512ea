// Calls of the gateway: one place that knows the header, the error form and the entity tags.
import { signal } from "@preact/signals";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type JsonObject = { [name: string]: Json };

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly description = "",
  ) {
    super(message);
  }
}

export interface Answer<T> {
  data: T;
  status: number;
  etag: string | null;
  type: string;
}

/** Whether the gateway answered last time. */
export const reachable = signal(true);
/** Raised when a call says that nobody is signed in any more. */
export const expired = signal(0);

export const CONSOLE = "/console/api/";
const OURS = { "x-twinspan-console": "1" };

export interface Options {
  method?: string;
  body?: unknown;
  raw?: BodyInit;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

function request(path: string, options: Options): Promise<Response> {
  const headers: Record<string, string> = { ...OURS, accept: "application/json", ...options.headers };
  let body = options.raw ?? null;
  if (options.body !== undefined) {
    headers["content-type"] ??= "application/json";
    body = JSON.stringify(options.body);
  }
  const address = path.startsWith("/") ? path : CONSOLE + path;
  const method = options.method ?? "GET";
  return fetch(address, { method, headers, body, signal: options.signal ?? null, credentials: "same-origin" });
}

/** Make a call; what is refused is an ApiError. */
export async function call<T = Json>(path: string, options: Options = {}): Promise<Answer<T>> {
  const response = await sent(path, options);
  const type = response.headers.get("content-type") ?? "";
  const text = await response.text();
  const data = (/[/+]json/.test(type) && text !== "" ? JSON.parse(text) : text) as T;
  return { data, status: response.status, etag: response.headers.get("etag"), type };
}

export const get = async <T = Json>(path: string, aborted?: AbortSignal): Promise<T> =>
  (await call<T>(path, { signal: aborted })).data;

/** The response as it is, once it is a good one. */
export async function sent(path: string, options: Options = {}): Promise<Response> {
  let response: Response;
  try {
    response = await request(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    reachable.value = false;
    throw new ApiError(0, "unreachable", "The gateway does not answer.", "It is tried again by itself.");
  }
  reachable.value = true;
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  let found: { error?: unknown; message?: unknown; description?: unknown; reason?: unknown; status?: unknown } = {};
  try {
    found = JSON.parse(text) as typeof found;
  } catch {
    // not every refusal is JSON: a proxy's is not
  }
  const status = typeof found.status === "number" ? found.status : response.status;
  const code = typeof found.error === "string" ? found.error : typeof found.reason === "string" ? found.reason : "";
  if (response.status === 401) expired.value += 1;
  const message = typeof found.message === "string" ? found.message : (typeof found.error === "string" ? found.error : text.slice(0, 300));
  return new ApiError(status, code, message || response.statusText || "The call was refused.", typeof found.description === "string" ? found.description : "");
}

/** One segment of a path. */
export const seg = encodeURIComponent;

export function query(values: Record<string, string | number | boolean | undefined | null>): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== "" && value !== false) found.set(name, String(value));
  }
  const text = found.toString();
  return text && `?${text}`;
}

export const asError = (error: unknown): ApiError =>
  error instanceof ApiError ? error : new ApiError(0, "console", error instanceof Error ? error.message : String(error));
