// java.net.http.HttpClient as it comes: over plain HTTP it asks to upgrade to HTTP/2 (h2c) with its first request.
//
//     java Client.java http://127.0.0.1:8000 KEY

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;

public class Client {
    static final HttpClient client = HttpClient.newHttpClient();

    static HttpRequest asked(String[] arguments, boolean stream) {
        String text = "안녕하세요. ".repeat(100);
        String body = "{\"messages\": [{\"role\": \"user\", \"content\": \"" + text
            + "\"}], \"max_tokens\": 4, \"temperature\": 0, \"stream\": " + stream + "}";
        return HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/chat/completions"))
            .header("Content-Type", "application/json")
            .header("Authorization", "Bearer " + arguments[1])
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    }

    static void check(boolean what, Object said) {
        if (!what) {
            throw new IllegalStateException(String.valueOf(said));
        }
    }

    public static void main(String[] arguments) throws Exception {
        check(client.version() == HttpClient.Version.HTTP_2, client.version());

        for (int i = 0; i < 2; i++) { // a new connection, and the same one again
            HttpResponse<String> whole = client.send(asked(arguments, false), HttpResponse.BodyHandlers.ofString());
            check(whole.statusCode() == 200 && whole.body().contains("\"role\":\"assistant\""), whole.body());
        }

        HttpResponse<java.util.stream.Stream<String>> streamed =
            client.send(asked(arguments, true), HttpResponse.BodyHandlers.ofLines());
        List<String> lines = streamed.body().filter(line -> !line.isEmpty()).collect(Collectors.toList());
        check(streamed.statusCode() == 200, streamed);
        check(lines.size() >= 2 && lines.get(lines.size() - 1).equals("data: [DONE]"), lines);

        List<CompletableFuture<HttpResponse<String>>> several = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            several.add(client.sendAsync(asked(arguments, false), HttpResponse.BodyHandlers.ofString()));
        }
        for (CompletableFuture<HttpResponse<String>> one : several) {
            check(one.get().statusCode() == 200, one.get().body());
        }
        System.out.println("passed");
    }
}
