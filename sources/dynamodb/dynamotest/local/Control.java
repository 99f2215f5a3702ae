import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.util.Map;
import software.amazon.dynamodb.services.local.main.ServerRunner;
import software.amazon.dynamodb.services.local.server.DynamoDBProxyServer;
import software.amazon.dynamodb.services.local.shared.access.AmazonDynamoDBLocal;

/**
 * Runs AWS's DynamoDB Local as it is, with its own arguments, and has its streams do by
 * command what takes hours by themselves. Needs a JDK, which compiles it as it starts:
 *
 *   java -Djava.library.path=DIR/DynamoDBLocal_lib -cp DIR/DynamoDBLocal.jar Control.java -inMemory ...
 *
 * It reads commands, one a line, and answers each with one line: "done", or what is wrong.
 *
 *   rollover   ends each open shard, and begins another
 *   age HOURS  makes all that streams hold older
 *
 * It ends where its input does.
 */
public class Control {
    public static void main(String[] args) throws Exception {
        DynamoDBProxyServer server = ServerRunner.createServerFromCommandLineArgs(args);
        server.start();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = commands.readLine()) != null;) {
            String answer = "done";
            try {
                run(server, line.trim().split(" +"));
            } catch (Throwable e) {
                answer = "failed: " + e.toString().replace('\n', ' ');
            }
            System.out.println(answer);
        }
        System.exit(0);
    }

    static void run(DynamoDBProxyServer server, String[] command) throws Exception {
        // A database appears with its first request: with -sharedDb there is one.
        Map<?, ?> databases = (Map<?, ?>) field(field(field(server, "serverHandler"), "primaryHandler"), "dbRequestHandlers");
        for (Object database : databases.values()) {
            AmazonDynamoDBLocal local = (AmazonDynamoDBLocal) database;
            switch (command[0]) {
                case "rollover" -> local.triggerShardRollovers();
                case "age" -> local.dilateEventTimes(Long.parseLong(command[1]) * 3_600_000);
                default -> throw new IllegalArgumentException(command[0]);
            }
        }
    }

    static Object field(Object of, String name) throws Exception {
        for (Class<?> c = of.getClass(); c != null; c = c.getSuperclass()) {
            try {
                Field f = c.getDeclaredField(name);
                f.setAccessible(true);
                return f.get(of);
            } catch (NoSuchFieldException e) {
                // a superclass may have it
            }
        }
        throw new NoSuchFieldException(name);
    }
}
