// Grafana's type of a dashboard as JSON has it: members of enums are their texts.
import type { Dashboard as Typed } from "@grafana/schema";

type Plain<T> = T extends string
  ? `${T}`
  : T extends readonly (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

export type Dashboard = Plain<Typed>;
