import { render } from "preact";
import { listen } from "./router";
import { Shell } from "./shell";
import { whoIsThere } from "./state";

listen();
void whoIsThere();
render(<Shell />, document.getElementById("app")!);
