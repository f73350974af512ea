// A protocol adapter of nothing but Hono's own parts: it reads steps from standard input, one a line, and
// answers each with one line, "ok ..." or "failed <status> <text>". What comes by itself begins with "*".

import com.github.benmanes.caffeine.cache.Caffeine;
import io.opentracing.noop.NoopSpan;
import io.opentracing.noop.NoopTracerFactory;
import io.vertx.core.Future;
import io.vertx.core.Vertx;
import io.vertx.core.buffer.Buffer;
import io.vertx.core.json.Json;
import io.vertx.core.json.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import javax.security.auth.x500.X500Principal;
import org.eclipse.hono.client.ServiceInvocationException;
import org.eclipse.hono.client.amqp.config.ClientConfigProperties;
import org.eclipse.hono.client.amqp.config.RequestResponseClientConfigProperties;
import org.eclipse.hono.client.amqp.connection.HonoConnection;
import org.eclipse.hono.client.amqp.connection.SendMessageSampler;
import org.eclipse.hono.client.command.CommandContext;
import org.eclipse.hono.client.command.CommandResponse;
import org.eclipse.hono.client.command.ProtocolAdapterCommandConsumer;
import org.eclipse.hono.client.command.ProtocolAdapterCommandConsumerFactoryImpl;
import org.eclipse.hono.client.command.amqp.ProtonBasedCommandResponseSender;
import org.eclipse.hono.client.command.amqp.ProtonBasedCommandRouterClient;
import org.eclipse.hono.client.command.amqp.ProtonBasedInternalCommandConsumer;
import org.eclipse.hono.client.notification.amqp.ProtonBasedNotificationReceiver;
import org.eclipse.hono.client.registry.amqp.ProtonBasedCredentialsClient;
import org.eclipse.hono.client.registry.amqp.ProtonBasedDeviceRegistrationClient;
import org.eclipse.hono.client.registry.amqp.ProtonBasedTenantClient;
import org.eclipse.hono.client.telemetry.amqp.ProtonBasedDownstreamSender;
import org.eclipse.hono.notification.deviceregistry.DeviceChangeNotification;
import org.eclipse.hono.notification.deviceregistry.TenantChangeNotification;
import org.eclipse.hono.util.QoS;
import org.eclipse.hono.util.RegistrationAssertion;
import org.eclipse.hono.util.TenantObject;

public final class Adapter {

    private static final NoopSpan SPAN =
        (NoopSpan) NoopTracerFactory.create().buildSpan("test").start();

    private final Vertx vertx = Vertx.vertx();
    private final SendMessageSampler.Factory sampler = SendMessageSampler.Factory.noop();
    private final String[] where;
    private final ProtonBasedTenantClient tenants;
    private final ProtonBasedDeviceRegistrationClient registration;
    private final ProtonBasedCredentialsClient credentials;
    private final ProtonBasedDownstreamSender downstream;
    private final ProtonBasedCommandResponseSender responses;
    private final ProtocolAdapterCommandConsumerFactoryImpl consumers;
    private final ProtonBasedCommandRouterClient router;
    private final ProtonBasedNotificationReceiver notifications;
    private TenantObject tenant;
    private RegistrationAssertion assertion;
    private ProtocolAdapterCommandConsumer consumer;

    private Adapter(final String... where) {
        this.where = where;
        tenants = new ProtonBasedTenantClient(connection("tenant"), sampler, Caffeine.newBuilder().build());
        registration = new ProtonBasedDeviceRegistrationClient(
            connection("registration"), sampler, Caffeine.newBuilder().build());
        credentials = new ProtonBasedCredentialsClient(
            connection("credentials"), sampler, Caffeine.newBuilder().build());
        downstream = new ProtonBasedDownstreamSender(connection("messaging"), sampler, true, false);
        responses = new ProtonBasedCommandResponseSender(connection("messaging"), sampler, false);
        router = new ProtonBasedCommandRouterClient(connection("router"), sampler);
        consumers = new ProtocolAdapterCommandConsumerFactoryImpl(vertx, router, "hono-test");
        consumers.registerInternalCommandConsumer((instance, handlers) ->
            new ProtonBasedInternalCommandConsumer(connection("command"), instance, handlers));
        notifications = new ProtonBasedNotificationReceiver(connection("notification"));
        notifications.registerConsumer(DeviceChangeNotification.TYPE, told ->
            say("* device " + told.getDeviceId() + " " + told.getChange() + " " + told.isDeviceEnabled()));
        notifications.registerConsumer(TenantChangeNotification.TYPE, told ->
            say("* tenant " + told.getTenantId() + " " + told.getChange() + " " + told.isTenantEnabled()));
    }

    public static void main(final String... where) throws Exception {
        final Adapter adapter = new Adapter(where);
        adapter.start();
        final BufferedReader steps = new BufferedReader(new InputStreamReader(System.in));
        for (String step = steps.readLine(); step != null; step = steps.readLine()) {
            adapter.answer(step.split(" ", 4));
        }
        System.exit(0);
    }

    private HonoConnection connection(final String role) {
        final RequestResponseClientConfigProperties config = new RequestResponseClientConfigProperties();
        config.setHost(where[0]);
        config.setPort(Integer.parseInt(where[1]));
        config.setUsername(where[2]);
        config.setPassword(where[3]);
        config.setRequestTimeout(5000);
        config.setLinkEstablishmentTimeout(5000);
        config.setSendMessageTimeout(5000);
        config.setFlowLatency(200);
        config.setName("hono-test");
        config.setServerRole(role);
        config.setReconnectAttempts(-1);
        if (where.length > 4) {
            config.setTlsEnabled(true);
            config.setTrustStorePath(where[4]);
            config.setHostnameVerificationRequired(false);
        }
        return HonoConnection.newConnection(vertx, config);
    }

    private void start() throws Exception {
        for (final Future<?> part : new Future<?>[] {
            tenants.start(), registration.start(), credentials.start(), downstream.start(), responses.start(),
            router.start(), consumers.start(), notifications.start()}) {
            part.toCompletionStage().toCompletableFuture().get(30, TimeUnit.SECONDS);
        }
        say("ready");
    }

    private static synchronized void say(final String line) {
        System.out.println(line);
        System.out.flush();
    }

    private void answer(final String... step) throws Exception {
        try {
            say("ok " + run(step).toCompletionStage().toCompletableFuture().get(20, TimeUnit.SECONDS));
        } catch (final java.util.concurrent.ExecutionException e) {
            final Throwable cause = e.getCause();
            final int status = cause instanceof ServiceInvocationException
                ? ((ServiceInvocationException) cause).getErrorCode() : -1;
            say("failed " + status + " " + cause.getMessage());
        }
    }

    private Future<?> run(final String... step) {
        switch (step[0]) {
            case "tenant":
                return tenants.get(step[1], null).map(found -> {
                    tenant = found;
                    return found.getTenantId() + " " + found.isEnabled() + " "
                        + found.isAdapterEnabled("hono-http");
                });
            case "anchor":
                return tenants.get(new X500Principal(rest(step)), null).map(found -> found.getTenantId() + " "
                    + found.getTrustAnchors().size());
            case "assert":
                return registration.assertRegistration(step[1], step[2], step.length > 3 ? step[3] : null, null)
                    .map(found -> {
                        assertion = found;
                        return found.getDeviceId() + " " + found.getAuthorizedGateways() + " "
                            + new java.util.TreeMap<>(found.getDefaults());
                    });
            case "credentials":
                return credentials.get(step[1], step[2], step[3], null).map(found -> found.getDeviceId() + " "
                    + Json.encode(found.getCandidateSecrets()));
            case "provision":
                return credentials.get(step[1], "x509-cert", dn(step[2]), new JsonObject()
                    .put("client-certificate", step[2]), null).map(found -> found.getDeviceId());
            case "telemetry":
                return downstream.sendTelemetry(tenant, assertion, QoS.AT_LEAST_ONCE, "text/plain",
                    Buffer.buffer(step[1]), properties("t"), null);
            case "event":
                return downstream.sendEvent(tenant, assertion, "text/plain",
                    Buffer.buffer(step[1]), properties("e"), null);
            case "listen":
                return consumers.createCommandConsumer(step[1], step[2], true, this::onCommand,
                    Duration.ofSeconds(600), null).map(made -> {
                        consumer = made;
                        return "";
                    });
            case "listen-for":
                return consumers.createCommandConsumer(step[1], step[2], step[3], false, this::onCommand,
                    Duration.ofSeconds(600), null).map("");
            case "leave":
                return consumer.close(true, null).map("");
            case "last":
                return router.setLastKnownGatewayForDevice(step[1], step[2], step[3], null).map("");
            case "enable":
                return router.enableCommandRouting(java.util.List.of(step[1]), null).map("");
            default:
                return Future.failedFuture("unknown step");
        }
    }

    private static String rest(final String... step) {
        return String.join(" ", java.util.Arrays.copyOfRange(step, 1, step.length));
    }

    private static Map<String, Object> properties(final String address) {
        return new HashMap<>(Map.of("orig_adapter", "hono-test", "orig_address", address));
    }

    private static String dn(final String certificate) {
        try {
            final byte[] der = Base64.getDecoder().decode(certificate);
            final java.security.cert.X509Certificate found = (java.security.cert.X509Certificate)
                java.security.cert.CertificateFactory.getInstance("X.509")
                    .generateCertificate(new java.io.ByteArrayInputStream(der));
            return found.getSubjectX500Principal().getName(X500Principal.RFC2253);
        } catch (final java.security.cert.CertificateException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private Future<Void> onCommand(final CommandContext context) {
        final var command = context.getCommand();
        final String payload = command.getPayload() == null ? "" : command.getPayload().toString();
        say("* command " + command.getName() + " " + command.getDeviceId() + " " + command.getGatewayId() + " "
            + payload);
        switch (payload) {
            case "release":
                context.release();
                return Future.succeededFuture();
            case "reject":
                context.reject("I will not");
                return Future.succeededFuture();
            default:
                context.accept();
        }
        if (command.isOneWay()) {
            return Future.succeededFuture();
        }
        final CommandResponse response = CommandResponse.fromRequestId(command.getRequestId(),
            command.getTenant(), command.getDeviceId(), Buffer.buffer("did " + payload), "text/plain", 200);
        return responses.sendCommandResponse(tenant, assertion, response, null)
            .onComplete(sent -> say("* response " + (sent.succeeded() ? "sent" : sent.cause())));
    }
}
