// Signs drawn here: 16 by 16, in the colour of the text.
const PATHS: Record<string, string> = {
  ok: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zm-1 8.6L4.6 8.2l1-1L7 8.6l3.4-3.4 1 1z",
  warn: "M8 1.8 15 14H1zm-.8 4.4v4h1.6v-4zm0 5v1.6h1.6v-1.6z",
  bad: "M5.2 2h5.6L14 5.2v5.6L10.8 14H5.2L2 10.8V5.2zm.6 2.8-1 1L7 8l-2.2 2.2 1 1L8 9l2.2 2.2 1-1L9 8l2.2-2.2-1-1L8 7z",
  idle: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zm0 1.6a4.4 4.4 0 1 1 0 8.8 4.4 4.4 0 0 1 0-8.8z",
  info: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zm-.8 2.6h1.6v1.6H7.2zm0 2.8h1.6v4H7.2z",
  search: "M7 2a5 5 0 0 1 4 8l3.2 3.2-1 1L10 11a5 5 0 1 1-3-9zm0 1.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z",
  copy: "M5 1h8v10h-2V3H5zM3 4h7v11H3zm1.4 1.4v8.2h4.2V5.4z",
  menu: "M2 3.5h12V5H2zm0 3.8h12v1.5H2zm0 3.8h12v1.5H2z",
  close: "m3.7 2.6 4.3 4.3 4.3-4.3 1.1 1.1L9.1 8l4.3 4.3-1.1 1.1L8 9.1l-4.3 4.3-1.1-1.1L6.9 8 2.6 3.7z",
  edit: "m11.3 1.6 3.1 3.1L6 13.1l-4 .9.9-4zm0 2.1L4.2 10.8l-.3 1.3 1.3-.3 7.1-7.1z",
  sun: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6zM7.3 1h1.4v2.4H7.3zm0 11.6h1.4V15H7.3zM1 7.3h2.4v1.4H1zm11.6 0H15v1.4h-2.4zM2.6 3.6l1-1 1.7 1.7-1 1zm8.1 8.1 1-1 1.7 1.7-1 1zm-7.1 1.7-1-1 1.7-1.7 1 1zm8.1-8.1-1-1 1.7-1.7 1 1z",
  down: "m3 5.5 5 5 5-5-1-1-4 4-4-4z",
};

export const Icon = ({ of }: { of: string }) => (
  <svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    <path d={PATHS[of] ?? ""} fill-rule="evenodd" />
  </svg>
);
