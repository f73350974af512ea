"""KubeEdge's cloud-edge link without I/O; CloudHub and EdgeHub meet here and nowhere else.

Where to look:
- `envelope`: one JSON frame <-> `Envelope`, and the forms that its content may have.
- `to_cloud`: what an edge sends. Builders for the edge, `read_to_cloud` for the cloud.
- `to_edge`:  what a cloud sends. Builders for the cloud, `read_to_edge` for the edge.
- `uploads`:  telemetry and events from the edge, with Twinspan's spool extension.
- `twins`:    the JSON documents of device twins, on the link and on the edge's MQTT topics.
- `devices`:  Device, DeviceModel and DeviceStatus objects as typed views; `values` their types.
- `link`:     the cloud's end of a connection: keep-alive, acknowledgement, resending, latest version only.
- `names`:    header, module and operation words, node identity.

Every message is read by one call into one frozen value; content that does not fit is MalformedPacket.
"""
