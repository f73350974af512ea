// Simple searches as RQL, and where an RQL text is wrong.

export interface Clause {
  field: string;
  op: string;
  value: string;
}

export const OPERATORS: [string, string][] = [
  ["eq", "is"],
  ["ne", "is not"],
  ["gt", "is above"],
  ["ge", "is at least"],
  ["lt", "is below"],
  ["le", "is at most"],
  ["like", "matches (* ?)"],
  ["ilike", "matches, any case"],
  ["in", "is one of (a, b)"],
  ["exists", "is there"],
];

const LITERAL = /^(-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null)$/;

export const quoted = (text: string): string => `"${text.replace(/\\/g, "\\\\").replace(/"/g, '\\"')}"`;

const literal = (text: string): string => (LITERAL.test(text.trim()) ? text.trim() : quoted(text));

function clauseText({ field, op, value }: Clause): string {
  if (op === "exists") return `exists(${field})`;
  if (op === "in") return `in(${field},${value.split(",").map((one) => literal(one.trim())).join(",")})`;
  return `${op}(${field},${op === "like" || op === "ilike" ? quoted(value) : literal(value)})`;
}

/** The RQL of clauses that all have to hold; those without a field do not count. */
export function rqlOf(clauses: Clause[]): string {
  const texts = clauses.filter((one) => one.field.trim()).map((one) => clauseText({ ...one, field: one.field.trim() }));
  return texts.length > 1 ? `and(${texts.join(",")})` : (texts[0] ?? "");
}

/** Where the service says an expression is wrong. */
export function positionIn(message: string): number | null {
  const found = /at position (\d+)/.exec(message);
  return found ? Number(found[1]) : null;
}
